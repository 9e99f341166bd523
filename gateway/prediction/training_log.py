"""The states a training run goes through in Postgres: queued, running, succeeded or failed."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final
from uuid import UUID

from sqlalchemy import and_, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.database.errors import Sessions, transaction, translated
from gateway.errors import Conflict
from models import TrainingRun

OPEN: Final = ("queued", "running")
QUEUED_S: Final = 60.0  # a run that began nowhere within this is dead

# Whether a connection to this database holds the advisory lock :key; a view, so it takes none.
_LOCK_FREE: Final = text(
    """NOT EXISTS (
        SELECT FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 1 AND granted
          AND (classid::bigint << 32 | objid::bigint) = :key
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )"""
)


class TrainingLog:
    """Writes what becomes of a model's training runs."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def queue(self, model: str, *, by: str, activate: bool) -> TrainingRun:
        """A new run. Conflict while one of the model is queued or running."""
        going = select(TrainingRun.id).where(
            TrainingRun.model == model, TrainingRun.state.in_(OPEN)
        )
        run = TrainingRun(model=model, created_by=by, activate=activate)
        async with transaction(self._sessions) as session:
            await session.execute(
                text("SELECT pg_advisory_xact_lock(:key)"), {"key": _key("queue", model)}
            )
            other = await session.scalar(going)
            if other is not None:
                raise Conflict(f"training run {other} of model {model} is not finished yet")
            session.add(run)
        return run

    async def began(self, run_id: UUID) -> None:
        """The run's process is at work. Conflict if the run is not waiting for one."""
        if not await self._set(run_id, state="running", started_at=func.now()):
            raise Conflict(f"training run {run_id} is finished")

    async def succeeded(self, run_id: UUID, predictor_id: UUID) -> None:
        """The run made this version."""
        await self._set(
            run_id, state="succeeded", predictor_id=predictor_id, finished_at=func.now()
        )

    async def failed(self, run_id: UUID, error: str) -> None:
        """The run made nothing, for this reason; no effect on a run that is finished."""
        await self._set(run_id, state="failed", error=error, finished_at=func.now())

    async def bury(self, model: str) -> int:
        """Mark as failed what a crashed gateway left open; how many there were.

        A run at work holds its model's lock from before it is `running` until after it is
        finished, so one that is `running` without the lock is dead.
        """
        late = func.now() - timedelta(seconds=QUEUED_S)
        dead = or_(
            and_(TrainingRun.state == "running", _LOCK_FREE),
            and_(TrainingRun.state == "queued", TrainingRun.created_at < late),
        )
        statement = (
            update(TrainingRun)
            .where(TrainingRun.model == model, dead)
            .values(
                state="failed",
                error="the gateway that started it stopped before it was done",
                finished_at=func.now(),
            )
            .returning(TrainingRun.id)
            .execution_options(synchronize_session=False)
        )
        async with transaction(self._sessions) as session:
            buried = await session.scalars(statement, {"key": _key("training", model)})
            return len(buried.all())

    async def _set(self, run_id: UUID, **values: object) -> bool:
        statement = (
            update(TrainingRun)
            .where(TrainingRun.id == run_id, TrainingRun.state.in_(OPEN))
            .values(**values)
            .returning(TrainingRun.id)
            .execution_options(synchronize_session=False)
        )
        async with transaction(self._sessions) as session:
            return await session.scalar(statement) is not None


@asynccontextmanager
async def training_lock(engine: AsyncEngine, model: str) -> AsyncIterator[None]:
    """Hold the right to train a model, across all gateways. Conflict while another holds it.

    Postgres frees it when the connection ends, however the process does.
    """
    key = {"key": _key("training", model)}
    with translated():
        async with engine.connect() as plain:
            connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
            if not await connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), key):
                raise Conflict(f"another process is training a predictor of model {model}")
            try:
                yield
            finally:
                await connection.execute(text("SELECT pg_advisory_unlock(:key)"), key)


def _key(purpose: str, model: str) -> int:
    """A 64-bit key for an advisory lock."""
    digest = hashlib.sha256(f"lmaas {purpose} {model}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
