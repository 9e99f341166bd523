"""`/admin/training-runs` and `/admin/training-schedule`: training of predictor versions."""

from datetime import datetime
from typing import Any, Self
from uuid import UUID

from litestar import Controller, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from gateway.api.admin.actor import Actor, area
from gateway.api.envelope import Limit, Listing, listing, to_answer
from gateway.api.openapi import errors
from gateway.prediction.lifecycle.registry import Registry
from gateway.prediction.lifecycle.runs import TrainingRuns
from gateway.prediction.lifecycle.schedule import Schedule, ScheduleChange, Schedules
from gateway.tenancy.paging import Cursor
from gateway.tenancy.scopes import Scope


class TrainingRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A training run to start; with `activate` the new version is activated if it is no worse."""

    activate: bool = True


class TrainingRunAnswer(Struct, frozen=True, kw_only=True):
    """A training run. `state`: `queued`, `running`, then `succeeded`, `failed` or `cancelled`.

    `error` is the reason of a failure or cancellation. `trigger` is `operator`, `timer`, `coverage`
    or `tau`. The phases of a running one are `drawing`, `reading`, `fitting` and `storing`.
    `samples` counts rows per tenant (found, read, left out because the tenant opted out, erased)
    and, of those read, the `complete` answers and those `cut_off`, which only bound their length
    from below; rows with numbers that cannot be are `unusable`, by what is wrong. If too few are
    complete for a training, `excluded` counts the other rows of history by reason.
    While `cancelled_by` is set and the state is not yet `cancelled`, its process is being stopped.
    """

    id: UUID
    model: str
    state: str
    error: str | None
    activate: bool
    trigger: str
    phase: str | None
    rows_read: int
    samples: dict[str, Any] | None
    predictor_id: UUID | None
    created_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancelled_by: str | None


class TrainingRunsController(Controller):
    """Lists, shows and cancels training runs."""

    path = "/training-runs"
    opt = area(Scope.PREDICTORS)

    @get(summary="List the newest training runs")
    async def list_runs(
        self, registry: NamedDependency[Registry], limit: Limit = 20
    ) -> Listing[TrainingRunAnswer]:
        """Runs, newest first."""
        runs = await registry.runs(limit=limit + 1)
        return listing(TrainingRunAnswer, Cursor(limit).page(runs))

    @get("/{run_id:uuid}", summary="Show a training run")
    async def show_run(
        self, run_id: FromPath[UUID], registry: NamedDependency[Registry]
    ) -> TrainingRunAnswer:
        """One run; 404 if there is none."""
        return to_answer(TrainingRunAnswer, await registry.run(run_id))

    @post(
        "/{run_id:uuid}/cancel",
        status_code=202,
        summary="Cancel a training run",
        responses=errors(409),
    )
    async def cancel_run(
        self, run_id: FromPath[UUID], runs: NamedDependency[TrainingRuns], actor: Actor
    ) -> TrainingRunAnswer:
        """The run; its gateway stops the process.

        Its state is `cancelled` once the process has stopped; it stores no version. 409 if the run
        has finished.
        """
        return to_answer(TrainingRunAnswer, await runs.cancel(run_id, actor))


class ScheduleAnswer(Struct, frozen=True, kw_only=True):
    """The schedule of a model, and who changed it last; the defaults if it was never changed."""

    model: str
    schedule: Schedule
    changed_by: str | None
    changed_at: datetime | None

    @classmethod
    def of(cls, model: str, schedule: Schedule, changed: ScheduleChange | None) -> Self:
        """The schedule as clients see it."""
        return cls(
            model=model,
            schedule=schedule,
            changed_by=changed.by if changed else None,
            changed_at=changed.at if changed else None,
        )


class TrainingScheduleController(Controller):
    """Shows and sets when the served model's predictor is trained automatically."""

    path = "/training-schedule"
    opt = area(Scope.PREDICTORS)

    @get(summary="Show the training schedule")
    async def show_schedule(
        self, schedules: NamedDependency[Schedules], runs: NamedDependency[TrainingRuns]
    ) -> ScheduleAnswer:
        """Timer, thresholds and windows, shared by all gateways of the model."""
        return ScheduleAnswer.of(runs.model, *await schedules.show(runs.model))

    @put(summary="Set the training schedule")
    async def set_schedule(
        self,
        data: JSONBody[Schedule],
        schedules: NamedDependency[Schedules],
        runs: NamedDependency[TrainingRuns],
        actor: Actor,
    ) -> ScheduleAnswer:
        """The schedule, in effect for all gateways at once; omitted fields get their defaults."""
        await schedules.set(runs.model, data, by=actor)
        return ScheduleAnswer.of(runs.model, *await schedules.show(runs.model))
