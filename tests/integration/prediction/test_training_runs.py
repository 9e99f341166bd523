import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from gateway.database.connection import Database
from gateway.database.errors import Sessions
from gateway.errors import Conflict
from gateway.prediction.registry import Registry
from gateway.prediction.runs import TrainingRuns
from gateway.prediction.training_log import training_lock
from models import TrainingRun


@asynccontextmanager
async def unreadable_history(database: Database) -> AsyncIterator[None]:
    """Training waits at its first read."""
    async with database.engine.begin() as connection:
        await connection.execute(text("LOCK TABLE requests IN ACCESS EXCLUSIVE MODE"))
        yield


async def until_running(registry: Registry, run: TrainingRun) -> None:
    state = run.state
    while state == "queued":
        state = (await registry.run(run.id)).state
    assert state == "running"


async def test_run_without_enough_history_says_what_it_needs(
    runs: TrainingRuns, registry: Registry
) -> None:
    run = await runs.start("olga")
    assert run.state == "queued"
    await runs.finished()
    run = await registry.run(run.id)
    assert (run.state, run.created_by) == ("failed", "olga")
    assert run.error == "training needs at least 100 finished requests of model demo, found 0"
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
