"""What is learned from: `/admin/predictors/samples`, a tenant's samples, `/admin/drift`."""

from datetime import datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter, RawBody
from msgspec import Struct

from gateway.api.admin.actor import Actor, area
from gateway.api.admin.body import LARGEST_UPLOAD, raw
from gateway.generation.service import GenerationService
from gateway.prediction.lifecycle.drift_series import DriftSeries
from gateway.prediction.lifecycle.erasure import Erased, SampleErasure
from gateway.prediction.lifecycle.log_import import Imported, LogImport
from gateway.prediction.lifecycle.schedule import Schedules
from gateway.tenancy.scopes import Scope

LINES: Final = "application/x-ndjson"

User = Annotated[str | None, QueryParameter(description="only this user's; unset: the tenant's")]
DriftApp = Annotated[UUID | None, QueryParameter(description="only this app; unset: all apps")]
Hours = Annotated[float, QueryParameter(gt=0, le=8_760, description="how far back")]
Buckets = Annotated[int, QueryParameter(ge=1, le=200, description="how many stretches of time")]


class DriftBucket(Struct, frozen=True):
    """A stretch of time from `since`: its newest outcomes, at most 500, that a version predicted.

    `coverage` is the share of lengths within the 0.9 quantile, `tau` Kendall's tau between the
    medians and the lengths; null where there are no outcomes.
    """

    since: datetime
    outcomes: int
    coverage: float | None
    tau: float | None


class DriftAnswer(Struct, frozen=True, kw_only=True):
    """The series, oldest first, and what this gateway measured over its newest outcomes.

    `trustworthy`: whether the order of predictions still tells the order of lengths.
    """

    app: UUID | None
    trustworthy: bool
    buckets: list[DriftBucket]


class LogsController(Controller):
    """Adds logs of one's own to what training reads."""

    opt = area(Scope.PREDICTORS)

    @post(
        "/predictors/samples",
        summary="Import logs to learn from",
        request_max_body_size=LARGEST_UPLOAD,
        operation_class=raw(
            LINES,
            "one JSON object a line: `app`, `input`, and `output` or `tokens`; optional "
            "`instruction`, `user`, `max_tokens`, `temperature`, `top_p`, `cut_off`",
        ),
    )
    async def import_samples(
        self, body: RawBody, logs: NamedDependency[LogImport], actor: Actor
    ) -> Imported:
        """How many rows were added; training reads them like served requests.

        400 names every bad line by number and reason; then none is added.
        """
        return await logs.add(body, by=actor)


class SamplesController(Controller):
    """Erases what is kept of requests to learn from."""

    opt = area(Scope.TENANTS)

    @delete(
        "/tenants/{tenant_id:uuid}/samples",
        status_code=200,
        summary="Erase a tenant's or a user's samples",
    )
    async def erase_samples(
        self,
        tenant_id: FromPath[UUID],
        erasure: NamedDependency[SampleErasure],
        actor: Actor,
        user: User = None,
    ) -> Erased:
        """How many rows of history lost their features, embeddings and user; usage stays.

        404 without such a tenant.
        """
        return await erasure.erase(tenant_id, user, by=actor)


class DriftController(Controller):
    """Shows whether predictions still hold."""

    path = "/drift"
    opt = area(Scope.PREDICTORS)

    @get(summary="Show how good predictions were over time")
    async def show_drift(
        self,
        series: NamedDependency[DriftSeries],
        schedules: NamedDependency[Schedules],
        generations: NamedDependency[GenerationService],
        app: DriftApp = None,
        hours: Hours = 168.0,
        buckets: Buckets = 28,
    ) -> DriftAnswer:
        """Coverage and Kendall's tau of the served predictions, of one app or of all."""
        window = timedelta(hours=hours)
        found = await series.show(app=app, window=window, buckets=buckets)
        schedule, _ = await schedules.show(generations.model)
        return DriftAnswer(
            app=app,
            trustworthy=generations.drift.trustworthy(schedule.tau_floor),
            buckets=[
                DriftBucket(bucket.since, quality.outcomes, quality.coverage, quality.tau)
                if (quality := bucket.quality)
                else DriftBucket(bucket.since, 0, None, None)
                for bucket in found
            ],
        )
