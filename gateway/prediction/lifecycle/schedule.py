"""When a model's predictor is trained without being asked: one schedule for all gateways."""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from sqlalchemy import func, text
from sqlalchemy.dialects.postgresql import insert

from gateway.database.errors import Sessions, transaction
from gateway.history.audit import note
from gateway.prediction.lifecycle.run_log import CHANNEL
from models import TrainingSchedule

Share = Annotated[float, Meta(ge=0, le=1)]


class Schedule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What starts a training run, and what it reads.

    `every_s`: seconds after the newest run the next is due; None: never by time.
    `least_outcomes`: no run starts before so many requests finished since the newest one.
    `window`: finished requests that coverage and τ are measured over.
    `coverage_tolerance`: how far the share of lengths within the 0.9 quantile may be from 0.9.
    `tau_drop`: how far Kendall's τ may be below what it was when the version was judged.
    `tau_floor`: below it the predictions are not to be trusted at all.
    `drift`: whether coverage and τ start runs.
    `activate`: whether a version so made goes live if it is no worse.
    `history_days`: how old the history is, at most, that training reads.
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
    """Who set a schedule, and when."""

    by: str
    at: datetime


class Schedules:
    """Shows and sets the schedule of a model."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def show(self, model: str) -> tuple[Schedule, ScheduleChange | None]:
        """The schedule, and who changed it last; the defaults where nobody did."""
        async with transaction(self._sessions) as session:
            row = await session.get(TrainingSchedule, model)
        if row is None:
            return Schedule(), None
        return _read(row), ScheduleChange(row.changed_by, row.changed_at)

    async def set(self, model: str, schedule: Schedule, *, by: str) -> None:
        """Hold to another schedule; all gateways are told after the commit."""
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
    """The stored schedule; a field that this release does not know is passed over."""
    known = set(Schedule.__struct_fields__)
    return msgspec.convert({k: v for k, v in row.settings.items() if k in known}, Schedule)
