"""Starts scheduled training runs, and kills runs that were cancelled at another gateway.

Every gateway checks; that only one starts a run is decided in Postgres, where a run is queued
(`RunLog.queue`).
"""

import time
from uuid import UUID

import msgspec
import structlog
from msgspec import Struct

from gateway.database.errors import Sessions
from gateway.database.far_times import has_come
from gateway.database.notify import POLL_S, Subscription
from gateway.errors import Conflict, LmaasError, NotFound
from gateway.prediction.lifecycle.registry import Registry
from gateway.prediction.lifecycle.run_log import CHANNEL, RunLog, StartReason
from gateway.prediction.lifecycle.runs import TrainingRuns
from gateway.prediction.lifecycle.schedule import Schedule, Schedules
from gateway.prediction.lifecycle.triggers import TriggerInputs, due_trigger
from gateway.prediction.serving.drift import DriftMonitor
from gateway.prediction.serving.warm_start import count_since
from models import TrainingRun

log = structlog.get_logger()

CREATED_BY = "schedule"  # `created_by` of scheduled runs


class _Judged(Struct, frozen=True):
    tau: float | None = None


class _Metrics(Struct, frozen=True):
    """What is read of a version's metrics."""

    new: _Judged = _Judged()


class AutoTraining:
    """Checks one model's schedule every `poll_s`, and after each change of it or of a run.

    If not `enabled`, it starts no runs but still kills cancelled ones.
    """

    def __init__(
        self,
        sessions: Sessions,
        runs: TrainingRuns,
        drift: DriftMonitor,
        *,
        model: str,
        database_url: str,
        enabled: bool = True,
        poll_s: float = POLL_S,
    ) -> None:
        self._sessions = sessions
        self._log = RunLog(sessions)
        self._registry = Registry(sessions)
        self._schedules = Schedules(sessions)
        self._runs = runs
        self._drift = drift
        self._model = model
        self._enabled = enabled
        self._subscription = Subscription(database_url, CHANNEL, self.check, poll_s=poll_s)

    def start(self) -> None:
        """Start checking in the background."""
        self._subscription.start("automatic training")

    async def close(self) -> None:
        """Stop checking; a running training continues."""
        await self._subscription.close()

    async def check(self) -> None:
        """Kill a cancelled run and start one if it is due; errors are logged."""
        try:
            await self._runs.kill_if_cancelled()
            schedule, _ = await self._schedules.show(self._model)
            self._drift.use_window(schedule.window)
            if self._enabled:
                await self._start_if_due(schedule)
        except Conflict as conflict:
            log.info("automatic_training_not_needed", reason=conflict.message)
        except (LmaasError, OSError, msgspec.ValidationError) as error:
            log.warning("automatic_training_hindered", reason=str(error))

    async def _start_if_due(self, schedule: Schedule) -> None:
        newest = await self._log.newest(self._model)
        if newest is not None and newest.finished_at is None:
            await self._runs.recover()  # its gateway may have ended
            return
        trigger = due_trigger(schedule, await self._facts(schedule, newest), time.time())
        if trigger is not None:
            reason = StartReason(trigger, None if newest is None else newest.id)
            await self._runs.start(CREATED_BY, activate=schedule.activate, reason=reason)

    async def _facts(self, schedule: Schedule, newest: TrainingRun | None) -> TriggerInputs:
        started_at = None
        if newest is not None and has_come(newest.created_at):
            started_at = newest.created_at
        active = await self._registry.active(self._model)
        measured = active is not None and active == self._drift.version
        return TriggerInputs(
            newest_run_s=None if started_at is None else started_at.timestamp(),
            outcomes=await count_since(
                self._sessions, self._model, started_at, limit=schedule.least_outcomes
            ),
            quality=self._drift.quality() if measured else None,
            judged_tau=await self._judged_tau(active) if active is not None and measured else None,
        )

    async def _judged_tau(self, predictor_id: UUID) -> float | None:
        """τ on the held-out rows; None for a version that was not trained here."""
        try:
            metrics = (await self._registry.show(predictor_id)).metrics
            return msgspec.convert(metrics, _Metrics).new.tau
        except NotFound:
            return None
        except msgspec.ValidationError as error:
            log.warning(
                "predictor_metrics_unreadable", predictor=str(predictor_id), reason=str(error)
            )
            return None
