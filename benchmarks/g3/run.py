"""G3: millions of rows of history, read and trimmed while requests are served."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Struct

from benchmarks.g3 import reads, serving
from benchmarks.g3.callers import MODELS, AppKey, make_callers, make_prices
from benchmarks.g3.history import DAYS, VECTOR_DAYS, fill
from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.live.gateway_process import ADMIN_KEY, GatewayProcess
from gateway.database.connection import Database
from gateway.database.embedded import EmbeddedPostgres
from gateway.database.errors import Sessions
from gateway.database.migration import migrate
from gateway.prediction.features.embedder_model import packaged_embedder
from gateway.prediction.training.samples import read_samples

ROWS: Final = 10_000_000
ROUNDS: Final = 100
PARTS: Final = ("reads", "training", "retention")
MADE: Final = "history.json"
MAX_TRAINING_READ_S: Final = 20.0
KEPT_DAYS: Final = 335.0  # of the year: a twelfth of the rows is too old


class History(Struct, frozen=True):
    """A history that was made: its end, and its callers."""

    until: datetime
    keys: list[AppKey]


def run(rows: int, rounds: int, parts: list[str], folder: Path | None) -> None:
    """Make the history, then measure. A `folder` keeps the database, for another run."""
    report = Report("G3", look=rows < ROWS or set(parts) != set(PARTS))
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="lmaas-bench-")
        place = folder or Path(stack.enter_context(temporary))
        postgres = stack.enter_context(EmbeddedPostgres(place / "data"))
        made = _history(report, postgres.url, rows, place / MADE)
        gateway = stack.enter_context(GatewayProcess("g3", database_url=postgres.url))
        found: list[Row] = []
        if "training" in parts:
            found.append(asyncio.run(_training_read(postgres.url, made.until)))
            report.say(f"training read: {found[-1]['read_s']:.1f} s")
        if "reads" in parts:
            calls = reads.routes(made.keys, made.until)
            taken = reads.measure(gateway.url, ADMIN_KEY, calls, rounds)
            found += [reads.row_of(name, each) for name, each in taken.items()]
            report.say("reads are measured")
        if "retention" in parts:
            found += asyncio.run(_retention(postgres.url, place, made.keys))
    report.conclude(found, targets(found))


def targets(rows: list[Row]) -> list[Target]:
    """The bounds of every part that ran."""
    found = list(reads.targets(rows))
    for row in rows:
        if row["part"] == "training":
            name = "training read of one model: seconds"
            found.append(target(name, row["read_s"], MAX_TRAINING_READ_S, "at most"))
    return found + list(serving.targets(rows))


def _history(report: Report, url: str, rows: int, file: Path) -> History:
    """The history of an earlier run in this folder, or a new one."""
    if file.exists():
        return msgspec.json.decode(file.read_bytes(), type=History)
    migrate(url)
    until = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    keys, prices = asyncio.run(_callers(url, until - timedelta(days=DAYS)))
    fill(url, keys, prices, rows=rows, until=until, embedder=packaged_embedder(), say=report.say)
    made = History(until, keys)
    file.write_bytes(msgspec.json.encode(made))
    return made


async def _callers(url: str, since: datetime) -> tuple[list[AppKey], dict[str, UUID]]:
    async with _opened(url) as sessions:
        return await make_callers(sessions), await make_prices(sessions, since)


async def _training_read(url: str, until: datetime) -> Row:
    """The rows that training reads of the first model, as a training run reads them."""
    async with _opened(url) as sessions:
        started = time.perf_counter()
        since = until - timedelta(days=VECTOR_DAYS)
        samples, counted = await read_samples(sessions, MODELS[0], since=since)
        return {
            "part": "training",
            "model": MODELS[0],
            "found": counted["found"],
            "read": len(samples),
            "read_s": time.perf_counter() - started,
        }


async def _retention(url: str, folder: Path, keys: list[AppKey]) -> list[Row]:
    async with _opened(url) as sessions:
        return await serving.measure(sessions, folder, keys, KEPT_DAYS)


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Sessions]:
    database = await Database.open(url, statement_s=None)
    try:
        yield database.sessions
    finally:
        await database.close()
