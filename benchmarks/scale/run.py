"""scale: processor time and memory of PostgreSQL for what gateways ask of it all the time.

Each cost is the processor time of the server's processes, so other work on the machine enters it
less than it enters times on the clock.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import psutil

from benchmarks.g3.callers import AppKey, make_callers, make_prices
from benchmarks.g3.serving import a_record
from benchmarks.harness.report import Report, Row
from gateway.database.connection import Database
from gateway.database.embedded import EmbeddedPostgres
from gateway.database.errors import Sessions
from gateway.database.migration import migrate
from gateway.database.notify import LIMITS, Subscription, notify
from gateway.history.writer import HistoryWriter
from gateway.limits.hold_ledger import HoldLedger
from gateway.limits.leased_accounts import open_leased
from gateway.limits.limit import Limit, Subjects
from gateway.usage.limits.lessor import Lessor
from gateway.usage.limits.limits import Limits, NewLimit

GROUPS: Final = (1, 8, 64)  # rows that a gateway inserts together
GROUP_ROWS: Final = 1_920  # of each size, in all
LESSORS: Final = 16
EXCHANGES: Final = 40  # of each
LISTENERS: Final = (8, 32)
NOTIFICATIONS: Final = 500
PATIENCE_S: Final = 600.0


def run(*, quick: bool) -> None:
    """Measure every cost; the result is written at the end."""
    report = Report("scale", look=quick)
    share = 8 if quick else 1
    with (
        tempfile.TemporaryDirectory(prefix="lmaas-bench-") as folder,
        EmbeddedPostgres(Path(folder, "data")) as postgres,
    ):
        migrate(postgres.url)
        rows = asyncio.run(_measured(report, postgres.url, Path(folder), share))
    report.conclude(rows, [])


class Server:
    """The processes of the embedded server in a data folder."""

    def __init__(self, data: Path) -> None:
        pid = (data / "postgres" / "postmaster.pid").read_text().split("\n", 1)[0]
        self._postmaster = psutil.Process(int(pid))

    def seconds(self) -> float:
        """The processor seconds so far of its processes, ended ones included."""
        ended = self._postmaster.cpu_times()
        found = float(ended.children_user + ended.children_system)
        for process in (self._postmaster, *self._postmaster.children()):
            try:
                spent = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            found += spent.user + spent.system
        return found

    def own_bytes(self) -> float:
        """The memory of its own of a process that waits for a client: the median."""
        found = [each.memory_full_info().uss for each in self._postmaster.children()]
        return float(np.median(found))


async def _measured(report: Report, url: str, folder: Path, share: int) -> list[Row]:
    server = Server(folder / "data")
    database = await Database.open(url)
    rows: list[Row] = []
    try:
        keys = await make_callers(database.sessions)
        await make_prices(database.sessions, datetime.now(UTC) - timedelta(days=1))
        for size in GROUPS:
            count = GROUP_ROWS // share
            rows.append(await _history(database.sessions, folder, keys, size, count, server))
            report.say(_line(rows[-1]))
        rows.append(await _leases(database.sessions, EXCHANGES // min(share, 4), server))
        report.say(_line(rows[-1]))
        for listeners in LISTENERS:
            count = NOTIFICATIONS // min(share, 5)
            rows.append(await _notifications(database.sessions, url, listeners, count, server))
            report.say(_line(rows[-1]))
    finally:
        await database.close()
    return rows


async def _history(
    sessions: Sessions, folder: Path, keys: list[AppKey], size: int, count: int, server: Server
) -> Row:
    """Records of requests, inserted in groups of this size by the gateway's own writer."""
    writer, random = HistoryWriter(sessions, folder / f"spool-{size}"), np.random.default_rng(size)

    async def group() -> None:
        for _ in range(size):
            writer.record(a_record(keys[int(random.integers(len(keys)))], random))
        await writer.flush()

    await group()  # connections are open
    return await _row(f"record, {size} a group", group, count // size, size, server)


async def _leases(sessions: Sessions, exchanges: int, server: Server) -> Row:
    """Gateways that all report what they used of one budget, and lease more of it."""
    new = NewLimit(
        level="node", owner=None, kind="tokens_per_day", value="1000000000", effect="hard"
    )
    limit = (await Limits(sessions).set(new, by="admin")).limit
    gateways = [_a_lessor(sessions, limit) for _ in range(LESSORS)]
    key = Subjects(tenant=limit.id, app=limit.id, key=limit.id, user=None)

    async def exchange() -> None:
        for ledger, _ in gateways:
            ledger.charge(key, {"tokens": 100}, time.time(), time.time())
        await asyncio.gather(*(lessor.sync() for _, lessor in gateways))

    await exchange()
    row = await _row("exchange of a budget", exchange, exchanges, LESSORS, server)
    return row | {"gateways": LESSORS}


def _a_lessor(sessions: Sessions, limit: Limit) -> tuple[HoldLedger, Lessor]:
    ledger = HoldLedger([limit], open_leased)
    return ledger, Lessor(sessions, ledger)


async def _notifications(
    sessions: Sessions, url: str, listeners: int, count: int, server: Server
) -> Row:
    """A change that all gateways hear of; `ms` until the last has."""
    heard, everyone = 0, asyncio.Event()

    async def hear() -> None:
        nonlocal heard
        heard += 1
        if heard >= listeners:
            everyone.set()

    async def change() -> None:
        nonlocal heard
        heard = 0
        everyone.clear()
        async with sessions.begin() as session:
            await notify(session, LIMITS)
        async with asyncio.timeout(PATIENCE_S):
            await everyone.wait()

    async with AsyncExitStack() as stack:
        for number in range(listeners):
            subscription = Subscription(url, LIMITS, hear, poll_s=PATIENCE_S)
            subscription.start(f"listener {number}")
            stack.push_async_callback(subscription.close)
        async with asyncio.timeout(PATIENCE_S):
            await everyone.wait()  # each has called `hear` once at its start
        row = await _row("notification heard", change, count, listeners, server)
        memory_mb = server.own_bytes() / 2**20
    return row | {"gateways": listeners, "MB a connection": memory_mb}


async def _row(
    what: str, act: Callable[[], Awaitable[None]], times: int, each: int, server: Server
) -> Row:
    """The cost of one of the `each` that an act does, `times` acts in a row."""
    before_s, taken_ms = server.seconds(), []
    for _ in range(max(times, 1)):
        began_s = time.perf_counter()
        await act()
        taken_ms.append(1_000 * (time.perf_counter() - began_s))
    spent_s = server.seconds() - before_s
    return {
        "what": what,
        "count": max(times, 1) * each,
        "server µs each": 1e6 * spent_s / (max(times, 1) * each),
        "ms p50": float(np.median(taken_ms)),
    }


def _line(row: Row) -> str:
    return f"{row['what']}: {row['server µs each']:.0f} µs of the server, {row['ms p50']:.1f} ms"
