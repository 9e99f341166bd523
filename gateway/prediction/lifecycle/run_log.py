"""The states of a training run in Postgres: queued, running, then how it ended."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from msgspec import Struct
from sqlalchemy import Select, and_, case, func, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.dml import ReturningUpdate

from gateway.database.errors import Sessions, transaction, translated
from gateway.errors import Conflict, NotFound
from gateway.history.audit import note
from models import TrainingRun
from models.base import new_id

CHANNEL: Final = "lmaas_training"  # NOTIFY with the model's name: a run's end or a schedule
OPEN_STATES: Final = ("queued", "running")
MAX_QUEUED_S: Final = 60.0  # a run that began nowhere within this is dead

# Whether a connection to this database holds the advisory lock :key; a view, so it takes none.
_LOCK_FREE: Final = text(
    """NOT EXISTS (
        SELECT FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 1 AND granted
          AND (classid::bigint << 32 | objid::bigint) = :key
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )"""
)


class StartReason(Struct, frozen=True):
    """Why a run is started: its trigger, and the newest run there was when that was found."""

    trigger: str
    newest_run: UUID | None = None


OPERATOR: Final = StartReason("operator")


class RunLog:
    """Writes what becomes of a model's training runs."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def queue(
        self, model: str, *, by: str, activate: bool, reason: StartReason = OPERATOR
    ) -> TrainingRun:
        """A new run. Conflict while one of the model is queued or running.

        A run for a reason that was found when another run was the newest is not needed any more
        once there is a newer one: Conflict, too.
        """
        going = select(TrainingRun.id).where(
            TrainingRun.model == model, TrainingRun.state.in_(OPEN_STATES)
        )
        run = TrainingRun(
            id=new_id(), model=model, created_by=by, activate=activate, trigger=reason.trigger
        )
        async with transaction(self._sessions) as session:
            await session.execute(
                text("SELECT pg_advisory_xact_lock(:key)"), {"key": _key("queue", model)}
            )
            other = await session.scalar(going)
            if other is not None:
                raise Conflict(f"training run {other} of model {model} is not finished yet")
            if reason.trigger != OPERATOR.trigger:
                newest = await session.scalar(_newest(model))
                if newest != reason.newest_run:
                    raise Conflict(f"training run {newest} of model {model} was started meanwhile")
            session.add(run)
            told = {"model": model, "trigger": reason.trigger, "activate": activate}
            note(session, by, "training.started", run.id, after=told)
        return run

    async def newest(self, model: str) -> TrainingRun | None:
        """The newest run of a model."""
        async with transaction(self._sessions) as session:
            run_id = await session.scalar(_newest(model))
            return None if run_id is None else await session.get(TrainingRun, run_id)

    async def cancel(self, run_id: UUID, *, by: str) -> TrainingRun:
        """Ask for the end of a run that is not finished; its gateway is told after the commit.

        NotFound; Conflict if it is finished.
        """
        async with transaction(self._sessions) as session:
            run = await session.get(TrainingRun, run_id, with_for_update=True)
            if run is None:
                raise run_not_found(run_id)
            if run.state not in OPEN_STATES:
                raise Conflict(f"training run {run_id} is finished: it {run.state}")
            if run.cancelled_by is None:
                run.cancelled_by = by
                before = {"state": run.state, "phase": run.phase}
                note(session, by, "training.cancelled", run_id, before=before)
            await session.execute(
                text("SELECT pg_notify(:channel, :model)"), {"channel": CHANNEL, "model": run.model}
            )
        return run

    async def cancelled(self, run_id: UUID) -> bool:
        """Whether somebody asked for the run's end."""
        statement = select(TrainingRun.cancelled_by).where(TrainingRun.id == run_id)
        async with transaction(self._sessions) as session:
            return await session.scalar(statement) is not None

    async def began(self, run_id: UUID) -> None:
        """The run's process is at work. Conflict if the run is not waiting for one."""
        if not await self._set(run_id, state="running", started_at=func.now()):
            raise Conflict(f"training run {run_id} is finished")

    async def at(self, run_id: UUID, phase: str, **columns: object) -> None:
        """The run has come to this phase. Conflict if it is finished."""
        if not await self._set(run_id, phase=phase, **columns):
            raise Conflict(f"training run {run_id} is finished")

    async def failed(self, run_id: UUID, error: str) -> None:
        """The run made nothing, for this reason; no effect on a run that is finished.

        One whose end was asked for is `cancelled`, whatever the reason.
        """
        await self._set(run_id, **_failed_columns(error))

    async def bury(self, model: str) -> int:
        """Mark as failed what a crashed gateway left open; how many there were.

        A run at work holds its model's lock from before it is `running` until after it is
        finished, so one that is `running` without the lock is dead.
        """
        late = func.now() - timedelta(seconds=MAX_QUEUED_S)
        dead = or_(
            and_(TrainingRun.state == "running", _LOCK_FREE),
            and_(TrainingRun.state == "queued", TrainingRun.created_at < late),
        )
        statement = (
            update(TrainingRun)
            .where(TrainingRun.model == model, dead)
            .values(**_failed_columns("the gateway that started it stopped before it was done"))
            .returning(TrainingRun.id)
            .execution_options(synchronize_session=False)
        )
        async with transaction(self._sessions) as session:
            buried = await session.scalars(statement, {"key": _key("training", model)})
            return len(buried.all())

    async def _set(self, run_id: UUID, **values: object) -> bool:
        statement = (
            update(TrainingRun)
            .where(TrainingRun.id == run_id, TrainingRun.state.in_(OPEN_STATES))
            .values(**values)
            .returning(TrainingRun.id)
            .execution_options(synchronize_session=False)
        )
        async with transaction(self._sessions) as session:
            return await session.scalar(statement) is not None


def mark_succeeded(run_id: UUID, predictor_id: UUID) -> ReturningUpdate[UUID]:
    """Marks a running run as succeeded with this version; no row where it may not any more."""
    return (
        update(TrainingRun)
        .where(
            TrainingRun.id == run_id,
            TrainingRun.state == "running",
            TrainingRun.cancelled_by.is_(None),
        )
        .values(state="succeeded", predictor_id=predictor_id, finished_at=func.now())
        .returning(TrainingRun.id)
        .execution_options(synchronize_session=False)
    )


def run_not_found(run_id: UUID) -> NotFound:
    """The error for an id of nothing."""
    return NotFound(f"there is no training run {run_id}", param="run_id")


def _newest(model: str) -> Select[UUID]:
    ordered = select(TrainingRun.id).where(TrainingRun.model == model)
    return ordered.order_by(TrainingRun.created_at.desc(), TrainingRun.id.desc()).limit(1)


def _failed_columns(error: str) -> dict[str, Any]:
    """The columns of a run that made nothing."""
    unwanted = TrainingRun.cancelled_by.is_not(None)
    return {
        "state": case((unwanted, "cancelled"), else_="failed"),
        "error": case((unwanted, "cancelled by " + TrainingRun.cancelled_by), else_=error),
        "finished_at": func.now(),
    }


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
