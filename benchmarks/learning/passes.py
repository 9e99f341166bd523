"""One pass: a fresh gateway serves the requests, with learning on or off, under one policy."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final, Self
from uuid import UUID

import numpy as np
from msgspec import Struct
from sqlalchemy import select

from benchmarks.harness.cpu_noise import CpuNoise
from benchmarks.learning.traffic import FIRST, SECOND, Answer, Client, PlannedRequest
from benchmarks.live.gateway_process import ADMIN_KEY, GatewayProcess
from benchmarks.live.tenant import Tenant
from gateway.cli.admin.client import AdminClient
from gateway.database.connection import Database
from gateway.quantiles import Bools, Floats
from models import RequestRecord

LEARN_AFTER: Final = 120  # answers until the operator starts the first training run
SCHEDULE: Final = {"every_s": 60, "least_outcomes": 100, "window": 200}  # a day in a minute
MAX_RUNNING: Final = 16  # sequences: beyond, requests wait and the order matters
RECORD_TIMEOUT_S: Final = 30.0
REPORTED_ANSWERS: Final = 100  # from one line of progress to the next


class PassName(Struct, frozen=True):
    """What differs between passes."""

    policy: str
    learning: bool

    def __str__(self) -> str:
        return f"{self.policy}, learning {'on' if self.learning else 'off'}"


class Pass(Struct, frozen=True):
    """Requests in the order of the plan: lengths (n,), quantiles (n, levels), sources, times.

    `by_policy` (n,) is False where the policy went by order of arrival, because the queue was short
    or predictions were not trusted.

    `runs` are the training runs as the admin API shows them, oldest first, with their `seconds`,
    whether the version was `activated`, and each scorecard's `pinball`. `activated` has for each
    version the first request that it predicted.
    """

    name: PassName
    tokens: Floats
    quantiles: Floats
    sources: list[str]
    apps: list[str]
    response_s: Floats
    by_policy: Bools
    activated: list[int]
    runs: list[dict[str, Any]]
    load: CpuNoise

    def __len__(self) -> int:
        return len(self.tokens)


class LearningGateway:
    """A gateway with a tenant that has an app and a key for each app of the traffic."""

    def __init__(self, model: Path, name: PassName, say: Callable[[str], None]) -> None:
        self._name, self._model, self._say = name, model.name, say
        self._gateway = GatewayProcess(
            f"learning-{name.policy}-{'on' if name.learning else 'off'}",
            model=model,
            policy=name.policy,
            max_running=MAX_RUNNING,
            automatic_training="true" if name.learning else "false",
        )

    def __enter__(self) -> Self:
        self._gateway.__enter__()
        try:
            keys = self._set_up()
        except BaseException:
            self._gateway.close()
            raise
        self._client = Client(self._gateway.url, self._model, keys, self._report)
        return self

    def __exit__(self, *_: object) -> None:
        self._gateway.close()

    def saturated_rate_s(self, warm_up: Sequence[PlannedRequest]) -> float:
        """Send requests, all at once; how many a second are answered while others wait.

        Of n answers the first n - MAX_RUNNING count: after them no request waits.
        """
        sent = asyncio.run(self._client.send(warm_up))
        ends_s = sorted(answer.response_s for answer in sent)
        counted = len(ends_s) - MAX_RUNNING
        return counted / ends_s[counted - 1]

    def serve(self, planned: Sequence[PlannedRequest]) -> Pass:
        """Send the requests at their times; with learning, train once and follow the schedule."""
        meter = self._gateway.meter()
        sent = asyncio.run(self._send(planned))
        load = meter.load()
        records = asyncio.run(_records(self._gateway.database_url, [_id(each) for each in sent]))
        with closing(AdminClient(self._gateway.url, ADMIN_KEY)) as admin:
            runs = _runs(admin)
        predictors = [record.predictor_id for record in records]
        first_of = {each: predictors.index(each) for each in predictors if each is not None}
        return Pass(
            name=self._name,
            tokens=np.array([record.generation_tokens for record in records], np.float64),
            quantiles=np.array([record.quantiles for record in records], np.float64),
            sources=[record.prediction_source for record in records],
            apps=[each.line.app for each in planned],
            response_s=np.array([each.response_s for each in sent]),
            by_policy=np.array([record.policy_order == "policy" for record in records]),
            activated=sorted(first_of.values()),
            runs=runs,
            load=load,
        )

    def _set_up(self) -> dict[str, str]:
        """Create the tenant and its apps; the apps' keys by app."""
        with closing(AdminClient(self._gateway.url, ADMIN_KEY)) as admin:
            return Tenant.create(admin, "learning", (*FIRST, *SECOND)).keys

    def _report(self, answered: int) -> None:
        if answered % REPORTED_ANSWERS == 0:
            self._say(f"{self._name}: {answered} answers")

    async def _send(self, planned: Sequence[PlannedRequest]) -> list[Answer]:
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._client.send(planned))
            if self._name.learning:
                group.create_task(self._train(len(planned) // 2))
        return sending.result()

    async def _train(self, latest: int) -> None:
        """Start a training run, then schedule more, as `lmaas admin predictors` does."""
        await self._client.wait_until_answered(min(LEARN_AFTER, latest))
        with closing(AdminClient(self._gateway.url, ADMIN_KEY)) as admin:
            await asyncio.to_thread(admin.post, "/admin/predictors")
            await asyncio.to_thread(partial(admin.put, "/admin/training-schedule", **SCHEDULE))


def _runs(admin: AdminClient) -> list[dict[str, Any]]:
    """The finished training runs, oldest first."""
    found = []
    for run in admin.get("/admin/training-runs", limit=100)["data"][::-1]:
        if run["finished_at"] is None:
            continue
        version = run["predictor_id"] and admin.get(f"/admin/predictors/{run['predictor_id']}")
        metrics = version["metrics"] if version else {}
        cards = {name: metrics.get(name) for name in ("new", "active", "line", "served")}
        started, finished = (
            datetime.fromisoformat(run[each]) for each in ("created_at", "finished_at")
        )
        found.append(
            {
                **run,
                "seconds": (finished - started).total_seconds(),
                "activated": metrics.get("activated", False),
                "pinball": {name: card["pinball"] for name, card in cards.items() if card},
            }
        )
    return found


def _id(answer: Answer) -> UUID:
    return UUID(answer.request_id.removeprefix("chatcmpl-"))


async def _records(url: str, wanted: list[UUID]) -> list[RequestRecord]:
    """The records of these requests, once they are in PostgreSQL. RuntimeError after a timeout."""
    statement = select(RequestRecord).where(RequestRecord.id.in_(wanted))
    database = await Database.open(url)
    end = monotonic() + RECORD_TIMEOUT_S
    try:
        while True:
            async with database.sessions() as session:
                found = {record.id: record for record in await session.scalars(statement)}
            if len(found) == len(wanted):
                return [found[each] for each in wanted]
            if monotonic() > end:
                raise RuntimeError(f"history has {len(found)} of {len(wanted)} requests")
            await asyncio.sleep(0.1)
    finally:
        await database.close()
