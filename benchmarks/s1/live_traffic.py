"""Sends questions to a gateway at a rate, each with the key of its app and with `max_tokens`."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from time import perf_counter
from typing import Any, Final, Self

import httpx
from msgspec import Struct

from benchmarks.s1.live_models import LiveModel, Question
from gateway.cli.admin.client import AdminClient

TIMEOUT_S: Final = 900.0
TENANT: Final = "S1"


class PlannedQuestion(Struct, frozen=True):
    """A question, the time to send it in seconds from the start, and the seed of its answer."""

    at_s: float
    question: Question
    seed: int


class Tenant(Struct, frozen=True):
    """A tenant with an app and a key for each app of the questions."""

    id: str
    apps: dict[str, str]
    keys: dict[str, str]

    @classmethod
    def create(cls, admin: AdminClient, apps: Iterable[str]) -> Self:
        """Create the tenant and its apps, without instructions: each question brings its own."""
        tenant = str(admin.post("/admin/tenants", name=TENANT)["id"])
        ids = {
            app: str(admin.post(f"/admin/tenants/{tenant}/apps", name=app)["id"])
            for app in sorted(set(apps))
        }
        keys = {
            app: str(admin.post(f"/admin/apps/{made}/keys", name=TENANT)["secret"])
            for app, made in ids.items()
        }
        return cls(tenant, ids, keys)


def plan(
    questions: Sequence[Question], seed: int, rate_s: float | None = None
) -> list[PlannedQuestion]:
    """The questions in order: Poisson arrivals at a rate, or all at once."""
    gaps, at_s, planned = Random(seed), 0.0, []
    for number, question in enumerate(questions):
        planned.append(PlannedQuestion(at_s, question, number))
        at_s += gaps.expovariate(rate_s) if rate_s else 0.0
    return planned


def send(
    url: str, model: LiveModel, keys: Mapping[str, str], planned: Sequence[PlannedQuestion]
) -> list[int]:
    """Send the questions at their times; the tokens of their answers.

    RuntimeError for one that fails.
    """
    return asyncio.run(_send(url, model, keys, planned))


async def _send(
    url: str, model: LiveModel, keys: Mapping[str, str], planned: Sequence[PlannedQuestion]
) -> list[int]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits) as client:
        start_s = perf_counter()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_send_one(client, model, keys, each, start_s)) for each in planned
            ]
        return [task.result() for task in tasks]


async def _send_one(
    client: httpx.AsyncClient,
    model: LiveModel,
    keys: Mapping[str, str],
    planned: PlannedQuestion,
    start_s: float,
) -> int:
    await asyncio.sleep(start_s + planned.at_s - perf_counter())
    response = await client.post(
        "/v1/chat/completions",
        json=body(model, planned),
        headers={"Authorization": f"Bearer {keys[planned.question.app]}"},
    )
    if response.is_error:
        raise RuntimeError(f"a request failed: {response.text[:500]}")
    return int(response.json()["usage"]["completion_tokens"])


def body(model: LiveModel, planned: PlannedQuestion) -> dict[str, Any]:
    """The body of a chat completion; every request has the same `max_tokens`."""
    question = planned.question
    return {
        "model": model.name,
        "messages": [
            {"role": "system", "content": question.instruction},
            {"role": "user", "content": question.input},
        ],
        "max_tokens": model.max_answer,
        "temperature": question.temperature,
        "top_p": question.top_p,
        "seed": planned.seed,
    }
