"""Training runs started by the schedule."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import pytest
from msgspec.structs import replace
from sqlalchemy import text

from gateway.database.errors import Sessions
from gateway.history.audit import AuditTrail
from gateway.history.record import Record
from gateway.history.writer import HistoryWriter
from gateway.prediction.lifecycle.run_log import RunLog
from gateway.prediction.lifecycle.schedule import Schedule, Schedules
from gateway.prediction.serving.drift import DriftMonitor
from models import Predictor
from tests.integration.prediction.conftest import StockedRegistry
from tests.integration.prediction.lifecycle.conftest import MakeGateway, TrainingGateway

NO_TIMER = Schedule(every_s=None, least_outcomes=5, window=50)
Eventually = Callable[[Callable[[], object]], Awaitable[None]]


@pytest.fixture
def gateways(a_gateway: MakeGateway) -> list[TrainingGateway]:
    return [a_gateway(), a_gateway()]


@pytest.fixture
async def outcomes(
    sessions: Sessions, tmp_path: Path, a_record: Callable[..., Record]
) -> Callable[[int], Awaitable[None]]:
    """Puts finished requests into history."""
    writer = HistoryWriter(sessions, tmp_path)

    async def finish(number: int) -> None:
        for _ in range(number):
            writer.record(a_record(model="demo"))
        await writer.flush()

    return finish


async def test_one_of_two_gateways_starts_the_run_that_is_due(
    gateways: list[TrainingGateway],
    outcomes: Callable[[int], Awaitable[None]],
    sessions: Sessions,
    registry: StockedRegistry,
) -> None:
    await Schedules(sessions).set("demo", replace(NO_TIMER, every_s=3_600.0), by="olga")
    await outcomes(4)
    await asyncio.gather(*(gateway.automatic.check() for gateway in gateways))
    assert await registry.runs() == []
    await outcomes(1)
    for _ in range(3):
        await asyncio.gather(*(gateway.automatic.check() for gateway in gateways))
    for gateway in gateways:
        await gateway.runs.finished()
    await asyncio.gather(*(gateway.automatic.check() for gateway in gateways))
    (run,) = await registry.runs()
    assert (run.trigger, run.created_by) == ("timer", "schedule")


async def test_background_check_follows_a_changed_schedule(
    *,
    gateways: list[TrainingGateway],
    outcomes: Callable[[int], Awaitable[None]],
    sessions: Sessions,
    registry: StockedRegistry,
    eventually: Eventually,
) -> None:
    await Schedules(sessions).set("demo", NO_TIMER, by="olga")
    await outcomes(5)
    runs, automatic, drift = gateways[0]
    automatic.start()
    await eventually(lambda: drift.quality() is None and drift._all.size == 50)
    assert await registry.runs() == []
    await Schedules(sessions).set("demo", replace(NO_TIMER, every_s=60.0), by="otto")
    await eventually(lambda: runs.pid is not None)
    changed, _ = (await AuditTrail(sessions).list(9, subject="demo"))[:2]
    assert (changed.actor, changed.action) == ("otto", "schedule.changed")
    assert changed.before is not None
    assert changed.after is not None
    assert (changed.before["every_s"], changed.after["every_s"]) == (None, 60.0)


@pytest.mark.parametrize(
    ("length", "trigger"), [(lambda n: n + 1_000, "coverage"), (lambda n: 101 - n, "tau")]
)
async def test_drift_of_the_active_version_starts_a_run(
    *,
    gateways: list[TrainingGateway],
    outcomes: Callable[[int], Awaitable[None]],
    sessions: Sessions,
    registry: StockedRegistry,
    a_version: Callable[..., Predictor],
    a_record: Callable[..., Record],
    length: Callable[[int], int],
    trigger: str,
) -> None:
    await Schedules(sessions).set("demo", replace(NO_TIMER, coverage_tolerance=0.2), by="olga")
    version = await registry.add(a_version(metrics={"new": {"tau": 0.5}}))
    await registry.activate(version.id, by="olga")
    await outcomes(5)
    runs, automatic, drift = gateways[0]
    await automatic.check()
    feed(drift, version.id, a_record, lambda n: n)
    await automatic.check()
    assert await registry.runs() == []
    feed(drift, version.id, a_record, length)
    await automatic.check()
    (run,) = await registry.runs()
    assert run.trigger == trigger
    await runs.finished()


def feed(
    drift: DriftMonitor,
    version: UUID,
    a_record: Callable[..., Record],
    length: Callable[[int], int],
) -> None:
    """100 outcomes with predictions of 1 to 100 tokens, a tenth with too short a P90."""
    for n in range(1, 101):
        upper = 5_000.0 if n % 10 and length(n) < 1_000 else 0.5
        drift.observe(
            a_record(
                predictor_id=version,
                quantiles=[1.0, 1.0, float(n), float(n), upper, upper],
                generation_tokens=length(n),
                max_tokens=10_000,
            )
        )


@pytest.mark.parametrize(
    "settings", ['{"every_s": 60, "least_outcomes": "many", "tau_drop": 7}', '"often"', "[]"]
)
async def test_schedule_that_cannot_be_read_is_the_default_where_it_cannot(
    sessions: Sessions, settings: str
) -> None:
    async with sessions.begin() as session:
        await session.execute(
            text(
                "INSERT INTO training_schedules (model, settings, changed_by)"
                f" VALUES ('demo', '{settings}', 'no one')"
            )
        )
    schedule, change = await Schedules(sessions).show("demo")
    assert schedule == (Schedule(every_s=60.0) if "60" in settings else Schedule())
    assert change is not None


async def test_run_that_starts_in_the_future_holds_up_no_other(
    gateways: list[TrainingGateway],
    outcomes: Callable[[int], Awaitable[None]],
    sessions: Sessions,
    registry: StockedRegistry,
) -> None:
    await Schedules(sessions).set("demo", replace(NO_TIMER, every_s=3_600.0), by="olga")
    await outcomes(5)
    log = RunLog(sessions)
    ended = await log.queue("demo", by="olga", activate=True)
    await log.mark_failed(ended.id, "as a test wants")
    async with sessions.begin() as session:
        await session.execute(text("UPDATE training_runs SET created_at = 'infinity'"))
    runs, automatic, _ = gateways[0]
    await automatic.check()
    await runs.finished()
    assert len(await registry.runs()) == 2


async def test_version_whose_metrics_cannot_be_read_stops_no_check(
    gateways: list[TrainingGateway],
    outcomes: Callable[[int], Awaitable[None]],
    sessions: Sessions,
    registry: StockedRegistry,
    a_version: Callable[..., Predictor],
    a_record: Callable[..., Record],
) -> None:
    await Schedules(sessions).set("demo", replace(NO_TIMER, every_s=3_600.0), by="olga")
    version = await registry.add(a_version(metrics={"new": "good"}))
    await registry.activate(version.id, by="olga")
    await outcomes(5)
    runs, automatic, drift = gateways[0]
    feed(drift, version.id, a_record, lambda n: n)
    await automatic.check()
    assert len(await registry.runs()) == 1
    await runs.finished()


async def test_default_schedule(sessions: Sessions) -> None:
    assert await Schedules(sessions).show("demo") == (Schedule(), None)
