"""The schedule of automatic training of a model, shared by all gateways."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
import structlog
from msgspec import Meta, Struct
from sqlalchemy import func, text
from sqlalchemy.dialects.postgresql import insert

from gateway.database.errors import Sessions, transaction
from gateway.history.audit import note
from gateway.prediction.lifecycle.run_log import CHANNEL
from models import TrainingSchedule

log = structlog.get_logger()

Share = Annotated[float, Meta(ge=0, le=1)]


class Schedule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The triggers of training runs, and the history they read.

    `every_s`: interval after the newest run, in seconds; None: no timer.
    `least_outcomes`: minimum number of requests finished since the newest run.
    `window`: finished requests over which coverage and τ are measured.
    `coverage_tolerance`: tolerated deviation of the coverage of the 0.9 quantile from 0.9, or from
    more where quantiles are at `max_tokens`, which no length exceeds.
    `tau_drop`: tolerated decrease of Kendall's τ since the version was evaluated.
    `tau_floor`: a lower τ starts a run, whatever it was in the evaluation.
    `drift`: whether coverage and τ start runs.
    `activate`: whether a scheduled run's version is activated if it is no worse.
    `history_days`: maximum age of the rows that training reads.
    """

    every_s: Annotated[float, Meta(ge=60)] | None = 86_400.0
    least_outcomes: Annotated[int, Meta(ge=1)] = 1_000
    window: Annotated[int, Meta(ge=50, le=2_000)] = 500
    coverage_tolerance: Share = 0.05
    tau_drop: Share = 0.1
    tau_floor: Share = 0.1
    drift: bool = True
    activate: bool = True
    history_days: Annotated[float, Meta(gt=0, le=3_650)] = 90.0


class ScheduleChange(Struct, frozen=True):
    """Who changed a schedule, and when."""

    by: str
    at: datetime


class Schedules:
    """The schedules of all models."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def show(self, model: str) -> tuple[Schedule, ScheduleChange | None]:
        """The schedule and its last change; the defaults and None if it was never changed."""
        async with transaction(self._sessions) as session:
            row = await session.get(TrainingSchedule, model)
        if row is None:
            return Schedule(), None
        return _read(row), ScheduleChange(row.changed_by, row.changed_at)

    async def set(self, model: str, schedule: Schedule, *, by: str) -> None:
        """Store a schedule; gateways are notified at the commit."""
        columns = {"settings": msgspec.to_builtins(schedule), "changed_by": by}
        statement = insert(TrainingSchedule).values(model=model, **columns)
        async with transaction(self._sessions) as session:
            row = await session.get(TrainingSchedule, model)
            before = msgspec.to_builtins(Schedule() if row is None else _read(row))
            await session.execute(
                statement.on_conflict_do_update(
                    index_elements=["model"], set_={**columns, "changed_at": func.now()}
                )
            )
            after = columns["settings"]
            note(session, by, "schedule.changed", model, before=before, after=after)
            await session.execute(
                text("SELECT pg_notify(:channel, :model)"), {"channel": CHANNEL, "model": model}
            )


def _read(row: TrainingSchedule) -> Schedule:
    """The stored schedule; a field that cannot be read has its default, an unknown one none."""
    stored: object = row.settings  # what the database has need be no object
    if not isinstance(stored, dict):
        log.warning("schedule_unreadable", model=row.model, settings=type(stored).__name__)
        return Schedule()
    read: dict[str, Any] = {}
    unreadable: list[str] = []
    for field in msgspec.structs.fields(Schedule):
        if field.name in stored:
            try:
                read[field.name] = msgspec.convert(stored[field.name], field.type)
            except msgspec.ValidationError:
                unreadable.append(field.name)
    if unreadable:
        log.warning("schedule_unreadable", model=row.model, fields=unreadable)
    return Schedule(**read)
