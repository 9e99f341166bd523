"""Training data and drift: `/admin/predictors/samples`, a tenant's samples, `/admin/drift`."""

from datetime import datetime, timedelta
from typing import Annotated, Final, Literal, TypeAlias
from uuid import UUID

from litestar import Controller, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter, RawBody
from msgspec import Struct

from gateway.api.admin.actor import Actor, area
from gateway.api.admin.body import LARGEST_UPLOAD, raw_body
from gateway.api.openapi import errors
from gateway.api.validation import STORABLE
from gateway.generation.service import GenerationService
from gateway.prediction.lifecycle.drift_series import DriftSeries
from gateway.prediction.lifecycle.erasure import Erased, SampleErasure
from gateway.prediction.lifecycle.log_import import ImportedRows, LogImport
from gateway.tenancy.scopes import Scope

LINES: Final = "application/x-ndjson"

User = Annotated[
    str | None,
    QueryParameter(
        pattern=STORABLE, description="only this user's samples; unset: all of the tenant"
    ),
]
DriftApp = Annotated[UUID | None, QueryParameter(description="only this app; unset: all apps")]
Hours = Annotated[float, QueryParameter(gt=0, le=8_760, description="length of the series")]
Buckets = Annotated[int, QueryParameter(ge=1, le=200, description="number of time buckets")]


Verdict: TypeAlias = Literal["trusted", "untrusted", "unknown"]


class DriftBucket(Struct, frozen=True):
    """A time bucket from `since`: its newest outcomes predicted by a version, at most 500.

    `coverage` is the share of lengths within the 0.9 quantile, `tau` Kendall's tau (rank
    correlation) of medians and lengths; null without outcomes.
    """

    since: datetime
    outcomes: int
    coverage: float | None
    tau: float | None


class DriftAnswer(Struct, frozen=True, kw_only=True):
    """The series, oldest first, and this gateway's verdict on its predictions.

    `version` is the active one; null before the first training. `verdict` is `trusted` or
    `untrusted`, by whether predictions rank the lengths of the newest `outcomes` well enough, or
    `unknown` with fewer than `least_outcomes`. Scheduling uses predictions unless the verdict is
    `untrusted`: then `trustworthy` is false.
    """

    app: UUID | None
    version: UUID | None
    verdict: Verdict
    outcomes: int
    least_outcomes: int
    trustworthy: bool
    buckets: list[DriftBucket]


class LogsController(Controller):
    """Imports request logs as training data."""

    opt = area(Scope.PREDICTORS)

    @post(
        "/predictors/samples",
        summary="Import logs to learn from",
        request_max_body_size=LARGEST_UPLOAD,
        responses=errors(409),
        operation_class=raw_body(
            LINES,
            "one JSON object per line: `app`, `input`, and `output` or `tokens`; optional "
            "`instruction`, `user`, `max_tokens`, `temperature`, `top_p`, `cut_off`",
        ),
    )
    async def import_samples(
        self, body: RawBody, logs: NamedDependency[LogImport], actor: Actor
    ) -> ImportedRows:
        """The number of added rows; training reads them like served requests.

        400 lists every invalid line with its number and reason; then no row is added.
        """
        return await logs.add(body, by=actor)


class SamplesController(Controller):
    """Erases the training data of a tenant or a user."""

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
        """The number of history rows that lost their features, embeddings and user; usage stays.

        404 if there is no such tenant.
        """
        return await erasure.erase(tenant_id, user, by=actor)


class DriftController(Controller):
    """Shows the quality of predictions over time."""

    path = "/drift"
    opt = area(Scope.PREDICTORS)

    @get(summary="Show the quality of predictions over time")
    async def show_drift(
        self,
        series: NamedDependency[DriftSeries],
        service: NamedDependency[GenerationService],
        app: DriftApp = None,
        hours: Hours = 168.0,
        buckets: Buckets = 28,
    ) -> DriftAnswer:
        """Coverage and Kendall's tau of the served predictions, of one app or all."""
        window = timedelta(hours=hours)
        found = await series.show(app=app, window=window, buckets=buckets)
        drift = service.drift
        trustworthy = drift.trustworthy(service.scheduler.tau_floor)
        judged: Verdict = "trusted" if trustworthy else "untrusted"
        return DriftAnswer(
            app=app,
            version=service.predictor_version,
            verdict="unknown" if drift.quality() is None else judged,
            outcomes=drift.outcomes,
            least_outcomes=drift.least_outcomes,
            trustworthy=trustworthy,
            buckets=[
                DriftBucket(bucket.since, quality.outcomes, quality.coverage, quality.tau)
                if (quality := bucket.quality)
                else DriftBucket(bucket.since, 0, None, None)
                for bucket in found
            ],
        )
