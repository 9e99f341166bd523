"""Runs `lmaas serve` as a user would, with a temporary data folder."""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Final, NamedTuple, Self

import httpx
import numpy as np
from msgspec import Struct
from sqlalchemy import func, select

from benchmarks.harness.cpu_noise import Meter, reading
from benchmarks.harness.paths import ROOT, log_file
from benchmarks.harness.processes import end_process
from gateway.cli.admin.client import AdminClient
from gateway.database.connection import Database
from gateway.database.embedded import EmbeddedPostgres
from gateway.engines.supervisor import socket_path
from gateway.quantiles import Floats
from gateway.replay.workload.history import HistoryWindow, read_history
from gateway.replay.workload.workload import Workload
from models import RequestRecord

START_TIMEOUT_S: Final = 120.0
STOP_TIMEOUT_S: Final = 60.0
RECORD_TIMEOUT_S: Final = 30.0  # until the last request's record is in PostgreSQL
READY: Final = re.compile(r"ready on (http://\S+)")
COUNTER: Final = re.compile(r"^lmaas_engine_(\w+)_total (\S+)$", re.MULTILINE)
GENERATED: Final = re.compile(
    r'^lmaas_engine_generated_tokens_total\{engine="(\d+)"\} (\S+)$', re.MULTILINE
)
API_KEY: Final = "sk-lmaas-benchmarks"
ADMIN_KEY: Final = "sk-lmaas-benchmarks-admin"


class EngineSteps(NamedTuple):
    """An engine's steps: their number, their seconds, and the tokens they computed."""

    number: float
    busy_s: float
    computed: float

    def since(self, before: Self) -> Self:
        """The steps after an earlier reading."""
        return type(self)(*(now - then for now, then in zip(self, before, strict=True)))


class ServedRequests(Struct, frozen=True):
    """Requests from history, in order of arrival; times (n,) in seconds from the arrival."""

    workload: Workload
    queued_s: Floats
    first_token_s: Floats
    response_s: Floats
    preemptions: int


def environment(settings: Mapping[str, object]) -> dict[str, str]:
    """The environment of an LMaaS command with exactly these settings."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("LMAAS_")}
    env.pop("DATABASE_URL", None)
    env |= {f"LMAAS_{name.upper()}": str(value) for name, value in settings.items()}
    if url := env.pop("LMAAS_DATABASE_URL", None):
        env["DATABASE_URL"] = url
    return env


class GatewayProcess:
    """A gateway with engine, predictor and PostgreSQL, with these `LMAAS_*` settings."""

    def __init__(self, name: str, **settings: object) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lmaas-bench-")
        self.data_dir = Path(str(settings.get("data_dir", Path(self._folder.name) / "data")))
        self._log = log_file(name)
        own = {
            "data_dir": self.data_dir,
            "port": 0,
            "api_key": API_KEY,
            "admin_key": ADMIN_KEY,
            "automatic_training": "false",
            "stop_delay_s": 0,
            "log_level": "warning",
        }
        self._environment = environment({**own, **settings})
        self.process = self._spawn()
        self.url = ""

    def __enter__(self) -> Self:
        try:
            self.url = self._wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def kill(self) -> None:
        """Kill the gateway's process, and start another in the same data folder."""
        self.process.kill()
        self.process.wait()
        self.process = self._spawn()
        self.url = self._wait_until_ready()

    def close(self) -> None:
        """Terminate the process; kill it if it does not end."""
        end_process(self.process, STOP_TIMEOUT_S)
        self._folder.cleanup()

    def use(self, policy: str, **options: object) -> None:
        """Switch to this policy; omitted options keep their values."""
        with self.admin() as admin:
            admin.put("/admin/policy", name=policy, **options)

    def admin(self) -> closing[AdminClient]:
        """The gateway's admin API, closed on leaving."""
        return closing(AdminClient(self.url, ADMIN_KEY))

    def engine_counts(self) -> dict[str, float]:
        """The counters of the engine's own since its start (`engine/step/stats.py`)."""
        transport = httpx.HTTPTransport(uds=str(socket_path(self.data_dir)))
        with httpx.Client(transport=transport, base_url="http://engine") as client:
            counts: dict[str, float] = client.get("/stats").raise_for_status().json()
        return counts

    def meter(self) -> Meter:
        """A meter that counts the gateway's PostgreSQL, not a descendant of ours, as our own."""
        line = (self.data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0]
        return Meter(lambda: reading([int(line)]))

    def steps(self) -> EngineSteps:
        """The steps since the start, of all engines together."""
        counted = {name: float(value) for name, value in COUNTER.findall(self._metrics())}
        return EngineSteps(counted["steps"], counted["busy_seconds"], counted["computed_tokens"])

    def generated_tokens(self) -> dict[int, float]:
        """The tokens that each engine has generated since the start, by its number."""
        return {int(name): float(value) for name, value in GENERATED.findall(self._metrics())}

    def _metrics(self) -> str:
        return httpx.get(f"{self.url}/metrics").raise_for_status().text

    @property
    def database_url(self) -> str:
        """The URL of the gateway's PostgreSQL."""
        return EmbeddedPostgres(self.data_dir).url

    def served(self, since: datetime, count: int) -> ServedRequests:
        """The `count` requests that arrived since then. RuntimeError for another number."""
        return asyncio.run(self._read(since, count))

    async def _read(self, since: datetime, count: int) -> ServedRequests:
        database = await Database.open(self.database_url)
        try:
            await _wait_for_records(database, since, count)
            workload = await read_history(database.sessions, HistoryWindow(since=since))
            rows = await _times(database, since)
        finally:
            await database.close()
        queued_s, first_token_s, response_s, preemptions = np.array(rows, np.float64).T
        return ServedRequests(workload, queued_s, first_token_s, response_s, int(preemptions.sum()))

    def _spawn(self) -> subprocess.Popen[bytes]:
        """The process; its log replaces an earlier one's."""
        with self._log.open("w") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "gateway", "serve"],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    def _wait_until_ready(self) -> str:
        end = monotonic() + START_TIMEOUT_S
        while not (match := READY.search(self._log.read_text())):
            if self.process.poll() is not None or monotonic() > end:
                words = self._log.read_text().strip().splitlines() or [f"see {self._log}"]
                raise RuntimeError(f"the gateway did not start: {words[-1]}")
            sleep(0.05)
        return match[1]


async def _wait_for_records(database: Database, since: datetime, count: int) -> None:
    """Returns once `count` requests since then are recorded. RuntimeError after a timeout."""
    statement = (
        select(func.count()).select_from(RequestRecord).where(RequestRecord.arrived_at >= since)
    )
    end = monotonic() + RECORD_TIMEOUT_S
    while True:
        async with database.sessions() as session:
            found = await session.scalar(statement)
        if found == count:
            return
        if monotonic() > end:
            raise RuntimeError(f"history has {found} requests where {count} were sent")
        await asyncio.sleep(0.1)


async def _times(database: Database, since: datetime) -> list[tuple[Any, ...]]:
    statement = (
        select(
            RequestRecord.queued_s,
            RequestRecord.first_token_s,
            RequestRecord.response_s,
            RequestRecord.preemptions,
        )
        .where(RequestRecord.arrived_at >= since)
        .order_by(RequestRecord.arrived_at, RequestRecord.id)
    )
    async with database.sessions() as session:
        return [tuple(row) for row in (await session.execute(statement)).all()]
