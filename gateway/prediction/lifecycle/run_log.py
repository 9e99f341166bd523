"""The states of training runs in Postgres: queued, running, succeeded, failed, cancelled."""

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

CHANNEL: Final = (
    "lmaas_training"  # NOTIFY with the model's name after a cancellation or a change of schedule
)
OPEN_STATES: Final = ("queued", "running")
MAX_QUEUED_S: Final = 60.0  # a run queued for longer has been abandoned

# True if no connection to this database holds the advisory lock :key; does not take it.
_LOCK_FREE: Final = text(
    """NOT EXISTS (
        SELECT FROM pg_locks
        WHERE locktype = 'advisory' AND objsubid = 1 AND granted
          AND (classid::bigint << 32 | objid::bigint) = :key
          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )"""
)


class StartReason(Struct, frozen=True):
    """Why a run is started: its trigger, and the newest run at that time."""

    trigger: str
    newest_run: UUID | None = None


OPERATOR: Final = StartReason("operator")


class RunLog:
    """Records the states of training runs."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def queue(
        self, model: str, *, by: str, activate: bool, reason: StartReason = OPERATOR
    ) -> TrainingRun:
        """Queue a new run. Conflict while one of the model is queued or running.

        Conflict, too, if a scheduled run's reason is outdated, since a newer run was started.
        """
        open_run = select(TrainingRun.id).where(
            TrainingRun.model == model, TrainingRun.state.in_(OPEN_STATES)
        )
        run = TrainingRun(
            id=new_id(), model=model, created_by=by, activate=activate, trigger=reason.trigger
        )
        async with transaction(self._sessions) as session:
            await session.execute(
                text("SELECT pg_advisory_xact_lock(:key)"), {"key": _key("queue", model)}
            )
            other = await session.scalar(open_run)
            if other is not None:
                raise Conflict(f"training run {other} of model {model} is not finished yet")
            if reason.trigger != OPERATOR.trigger:
                newest = await session.scalar(_newest(model))
                if newest != reason.newest_run:
                    raise Conflict(f"training run {newest} of model {model} was started meanwhile")
            session.add(run)
            after = {"model": model, "trigger": reason.trigger, "activate": activate}
            note(session, by, "training.started", run.id, after=after)
        return run

    async def newest(self, model: str) -> TrainingRun | None:
        """The newest run of a model; None without one."""
        async with transaction(self._sessions) as session:
            run_id = await session.scalar(_newest(model))
            return None if run_id is None else await session.get(TrainingRun, run_id)

    async def cancel(self, run_id: UUID, *, by: str) -> TrainingRun:
        """Request the cancellation of an open run; its gateway is notified at the commit.

        NotFound; Conflict if it has finished.
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

    async def is_cancelled(self, run_id: UUID) -> bool:
        """Whether the cancellation of the run was requested."""
        statement = select(TrainingRun.cancelled_by).where(TrainingRun.id == run_id)
        async with transaction(self._sessions) as session:
            return await session.scalar(statement) is not None

    async def mark_running(self, run_id: UUID) -> None:
        """Mark an open run as running. Conflict if it has finished."""
        if not await self._set(run_id, state="running", started_at=func.now()):
            raise Conflict(f"training run {run_id} is finished")

    async def set_phase(self, run_id: UUID, phase: str, **columns: object) -> None:
        """Record the phase of a run, and columns. Conflict if it has finished."""
        if not await self._set(run_id, phase=phase, **columns):
            raise Conflict(f"training run {run_id} is finished")

    async def mark_failed(self, run_id: UUID, error: str) -> None:
        """Mark a run as failed for this reason; no effect on a finished run.

        A run whose cancellation was requested becomes `cancelled` instead.
        """
        await self._set(run_id, **_failed_columns(error))

    async def fail_abandoned(self, model: str) -> int:
        """Mark open runs of crashed gateways as failed; returns their number.

        A run holds its model's lock from before it is `running` until it has finished, so a
        `running` run without the lock has been abandoned.
        """
        queued_before = func.now() - timedelta(seconds=MAX_QUEUED_S)
        abandoned = or_(
            and_(TrainingRun.state == "running", _LOCK_FREE),
            and_(TrainingRun.state == "queued", TrainingRun.created_at < queued_before),
        )
        statement = (
            update(TrainingRun)
            .where(TrainingRun.model == model, abandoned)
            .values(**_failed_columns("the gateway that started it stopped before it was done"))
            .returning(TrainingRun.id)
            .execution_options(synchronize_session=False)
        )
        async with transaction(self._sessions) as session:
            abandoned_runs = await session.scalars(statement, {"key": _key("training", model)})
            return len(abandoned_runs.all())

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
    """Marks a running run as succeeded with this version; returns no row if it is not running
    or was cancelled.
    """
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
    """The error for an unknown run id."""
    return NotFound(f"there is no training run {run_id}", param="run_id")


def _newest(model: str) -> Select[UUID]:
    ordered = select(TrainingRun.id).where(TrainingRun.model == model)
    return ordered.order_by(TrainingRun.created_at.desc(), TrainingRun.id.desc()).limit(1)


def _failed_columns(error: str) -> dict[str, Any]:
    """The columns of a failed or cancelled run."""
    is_cancelled = TrainingRun.cancelled_by.is_not(None)
    return {
        "state": case((is_cancelled, "cancelled"), else_="failed"),
        "error": case((is_cancelled, "cancelled by " + TrainingRun.cancelled_by), else_=error),
        "finished_at": func.now(),
    }


@asynccontextmanager
async def training_lock(engine: AsyncEngine, model: str) -> AsyncIterator[None]:
    """Hold the lock on training a model, across all gateways. Conflict while another holds it.

    Postgres releases it when the connection ends, even after a crash.
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
