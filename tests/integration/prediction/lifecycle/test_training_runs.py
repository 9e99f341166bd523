import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import psutil
import pytest
from sqlalchemy import text

from gateway.database.connection import Database
from gateway.database.errors import Sessions
from gateway.errors import Conflict, NotFound
from gateway.history.audit import AuditTrail
from gateway.prediction.lifecycle import runs as runs_module
from gateway.prediction.lifecycle.registry import Registry
from gateway.prediction.lifecycle.run_log import RunLog, training_lock
from gateway.prediction.lifecycle.runs import TrainingRuns
from models import Predictor, TrainingRun
from models.base import new_id
from tests.integration.prediction.lifecycle.conftest import MakeGateway

Eventually = Callable[[Callable[[], object]], Awaitable[None]]


@asynccontextmanager
async def unreadable_history(database: Database) -> AsyncIterator[None]:
    """Lock history, so that training blocks at its first read."""
    async with database.engine.begin() as connection:
        await connection.execute(text("LOCK TABLE requests IN ACCESS EXCLUSIVE MODE"))
        yield


async def until_running(registry: Registry, run: TrainingRun) -> None:
    state = run.state
    while state == "queued":
        state = (await registry.run(run.id)).state
    assert state == "running"


async def until_drawing(registry: Registry, run: TrainingRun) -> None:
    """Wait until the run reads history."""
    while (found := await registry.run(run.id)).phase != "drawing":
        assert found.state in ("queued", "running")


async def test_run_without_enough_history_says_what_it_needs(
    runs: TrainingRuns, registry: Registry
) -> None:
    run = await runs.start("olga")
    assert run.state == "queued"
    await runs.finished()
    run = await registry.run(run.id)
    assert (run.state, run.created_by) == ("failed", "olga")
    assert run.error == (
        "training needs at least 100 complete answers of model demo from the last 90 days, found 0"
    )
    assert run.finished_at is not None
    assert await registry.list() == []


async def test_killed_run_is_marked_failed_and_the_next_may_start(
    runs: TrainingRuns, registry: Registry, database: Database
) -> None:
    async with unreadable_history(database):
        run = await runs.start("olga")
        await until_running(registry, run)
        with pytest.raises(Conflict, match="not finished yet"):
            await runs.start("olga")
        assert runs.pid is not None
        os.kill(runs.pid, signal.SIGKILL)
        await runs.finished()
    run = await registry.run(run.id)
    assert (run.state, run.error) == ("failed", "the training process was killed by signal 9")
    assert (await runs.start("olga")).state == "queued"


async def test_training_leaves_half_the_cores_to_the_engine(
    runs: TrainingRuns, registry: Registry, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1000")  # of the gateway
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    async with unreadable_history(database):
        await until_running(registry, await runs.start("olga"))
        libraries = psutil.Process(runs.pid).environ()
        await runs.close()
    assert libraries["OMP_NUM_THREADS"] == str(max(1, (os.cpu_count() or 1) // 2))
    assert libraries["OMP_WAIT_POLICY"] == "passive"


async def test_run_at_work_ends_with_its_gateway(
    runs: TrainingRuns, registry: Registry, database: Database
) -> None:
    async with unreadable_history(database):
        run = await runs.start("olga")
        await until_running(registry, run)
        await runs.close()
    assert (await registry.run(run.id)).state == "failed"
    assert runs.pid is None


async def test_run_left_by_a_crashed_gateway_is_marked_failed(
    runs: TrainingRuns, registry: Registry, sessions: Sessions
) -> None:
    left = TrainingRun(model="demo", state="running", created_by="olga")
    others = TrainingRun(model="other", state="running", created_by="olga")
    async with sessions.begin() as session:
        session.add_all([left, others])
    await runs.recover()
    assert (await registry.run(left.id)).state == "failed"
    assert (await registry.run(others.id)).state == "running"


async def test_run_of_another_living_gateway_is_left_alone(
    runs: TrainingRuns, registry: Registry, sessions: Sessions, database: Database
) -> None:
    theirs = TrainingRun(model="demo", state="running", created_by="olga")
    async with sessions.begin() as session:
        session.add(theirs)
    async with training_lock(database.engine, "demo"):
        await runs.recover()
        assert (await registry.run(theirs.id)).state == "running"
        with pytest.raises(Conflict, match="another process"):
            async with training_lock(database.engine, "demo"):
                pass
    await runs.recover()
    assert (await registry.run(theirs.id)).state == "failed"


@pytest.fixture
def elsewhere(a_gateway: MakeGateway) -> TrainingRuns:
    """The training runs of another gateway on the same database."""
    return a_gateway().runs


async def test_two_gateways_never_train_at_once(
    runs: TrainingRuns, elsewhere: TrainingRuns, registry: Registry, database: Database
) -> None:
    async with unreadable_history(database):
        asked = await asyncio.gather(
            runs.start("olga"), elsewhere.start("otto"), return_exceptions=True
        )
        (run,) = [each for each in asked if isinstance(each, TrainingRun)]
        (refused,) = [each for each in asked if isinstance(each, Conflict)]
        assert str(run.id) in refused.message
        await until_running(registry, run)
        for gateway in (runs, elsewhere):
            with pytest.raises(Conflict, match="not finished yet"):
                await gateway.start("olga")
        assert [gateway.pid for gateway in (runs, elsewhere)].count(None) == 1


async def test_killed_run_of_one_gateway_lets_the_other_start_at_once(
    runs: TrainingRuns, elsewhere: TrainingRuns, registry: Registry, database: Database
) -> None:
    async with unreadable_history(database):
        run = await runs.start("olga")
        await until_running(registry, run)
        assert runs.pid is not None
        os.kill(runs.pid, signal.SIGKILL)
        await runs.finished()
        again = await elsewhere.start("otto")
        await until_running(registry, again)
    await elsewhere.finished()
    assert (await registry.run(again.id)).error == (
        "training needs at least 100 complete answers of model demo from the last 90 days, found 0"
    )


async def test_run_is_cancelled_by_another_gateway(
    sessions: Sessions,
    a_gateway: MakeGateway,
    elsewhere: TrainingRuns,
    registry: Registry,
    database: Database,
) -> None:
    runs, listening, _ = a_gateway(enabled=False)
    listening.start()
    async with unreadable_history(database):
        run = await runs.start("olga")
        await until_drawing(registry, run)
        asked = await elsewhere.cancel(run.id, "otto")
        assert (asked.state, asked.cancelled_by) == ("running", "otto")
        await runs.finished()
    ended = await registry.run(run.id)
    assert (ended.state, ended.error, ended.phase) == ("cancelled", "cancelled by otto", "drawing")
    with pytest.raises(Conflict, match="is finished"):
        await elsewhere.cancel(run.id, "otto")
    steps = await AuditTrail(sessions).list(9, subject=str(run.id))
    assert [(step.actor, step.action) for step in steps] == [
        ("otto", "training.cancelled"),
        ("olga", "training.started"),
    ]


async def test_run_that_takes_too_long_is_ended(
    runs: TrainingRuns,
    registry: Registry,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runs_module, "MAX_RUN_S", 0.0)
    async with unreadable_history(database):
        run = await runs.start("olga")
        await runs.finished()
    ended = await registry.run(run.id)
    assert (ended.state, ended.error) == ("failed", "the training process took longer than 0 s")
    assert runs.pid is None


async def test_run_of_a_gateway_that_is_gone_can_be_cancelled(
    runs: TrainingRuns, registry: Registry, sessions: Sessions
) -> None:
    left = TrainingRun(model="demo", state="running", created_by="olga")
    async with sessions.begin() as session:
        session.add(left)
    await runs.cancel(left.id, "otto")
    assert (await registry.run(left.id)).state == "cancelled"
    with pytest.raises(NotFound):
        await runs.cancel(new_id(), "otto")


@pytest.fixture
async def at_work(sessions: Sessions) -> TrainingRun:
    """A run that is running, for all that the database knows."""
    training_log = RunLog(sessions)
    run = await training_log.queue("demo", by="olga", activate=True)
    await training_log.mark_running(run.id)
    return run


async def test_cancelled_run_publishes_no_version(
    sessions: Sessions,
    registry: Registry,
    at_work: TrainingRun,
    a_version: Callable[..., Predictor],
) -> None:
    await RunLog(sessions).cancel(at_work.id, by="otto")
    with pytest.raises(Conflict, match="was cancelled"):
        await registry.publish(a_version(), at_work.id, activate=True)
    assert await registry.list() == []
    assert await registry.active("demo") is None


async def test_finished_run_and_its_version_are_published_together(
    registry: Registry, at_work: TrainingRun, a_version: Callable[..., Predictor]
) -> None:
    version = await registry.publish(a_version(), at_work.id, activate=True)
    assert await registry.active("demo") == version.id
    ended = await registry.run(at_work.id)
    assert (ended.state, ended.predictor_id) == ("succeeded", version.id)
