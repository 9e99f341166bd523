"""`/admin/predictors` and `/admin/training-runs`: versions of the length predictor."""

from datetime import datetime
from typing import Any, Final, Literal, Self
from uuid import UUID

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from gateway.api.envelope import Limit, Listing
from gateway.prediction.registry import Registry
from gateway.prediction.runs import TrainingRuns
from models import Predictor, TrainingRun

ADMIN: Final = "admin"  # who did it: the admin key has no other name


class PredictorAnswer(Struct, frozen=True, kw_only=True):
    """A version: what it was fitted on, how well it does, and whether it is at work."""

    id: UUID
    model: str
    model_hash: str
    feature_version: int
    state: Literal["active", "inactive"]
    rows: int
    trained_from: datetime | None
    trained_until: datetime | None
    metrics: dict[str, Any]
    checksum: str
    created_by: str
    created_at: datetime
    activated_by: str | None
    activated_at: datetime | None

    @classmethod
    def of(cls, version: Predictor) -> Self:
        """The version as clients see it."""
        return cls(
            id=version.id,
            model=version.model,
            model_hash=version.model_hash,
            feature_version=version.feature_version,
            state="active" if version.active else "inactive",
            rows=version.rows,
            trained_from=version.trained_from,
            trained_until=version.trained_until,
            metrics=version.metrics,
            checksum=version.checksum.hex(),
            created_by=version.created_by,
            created_at=version.created_at,
            activated_by=version.activated_by,
            activated_at=version.activated_at,
        )


class TrainingRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """A training run to start; with `activate` the new version goes live if it is no worse."""

    activate: bool = True


class TrainingRunAnswer(Struct, frozen=True, kw_only=True):
    """A training run: `queued`, `running`, then `succeeded` or `failed` with the error."""

    id: UUID
    model: str
    state: str
    error: str | None
    activate: bool
    predictor_id: UUID | None
    created_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, run: TrainingRun) -> Self:
        """The run as clients see it."""
        return cls(
            id=run.id,
            model=run.model,
            state=run.state,
            error=run.error,
            activate=run.activate,
            predictor_id=run.predictor_id,
            created_by=run.created_by,
            created_at=run.created_at,
            started_at=run.started_at,
            finished_at=run.finished_at,
        )


class PredictorsController(Controller):
    """Trains, lists, shows and activates versions."""

    path = "/predictors"

    @post(status_code=202, summary="Train a new version")
    async def train(
        self, runs: NamedDependency[TrainingRuns], data: JSONBody[TrainingRequest | None] = None
    ) -> TrainingRunAnswer:
        """The run, to poll at `/admin/training-runs/{id}`; 409 while another is at work."""
        wanted = data or TrainingRequest()
        return TrainingRunAnswer.of(await runs.start(ADMIN, activate=wanted.activate))

    @get(summary="List the newest versions")
    async def list_predictors(
        self, registry: NamedDependency[Registry], limit: Limit = 20
    ) -> Listing[PredictorAnswer]:
        """Versions, newest first."""
        versions = await registry.list(limit=limit + 1)
        return Listing.cut([PredictorAnswer.of(version) for version in versions], limit)

    @get("/{predictor_id:uuid}", summary="Show a version")
    async def show_predictor(
        self, predictor_id: FromPath[UUID], registry: NamedDependency[Registry]
    ) -> PredictorAnswer:
        """One version with its metrics; 404 if there is none."""
        return PredictorAnswer.of(await registry.show(predictor_id))

    @post("/{predictor_id:uuid}/activate", status_code=200, summary="Activate a version")
    async def activate_predictor(
        self, predictor_id: FromPath[UUID], registry: NamedDependency[Registry]
    ) -> PredictorAnswer:
        """The version, at work from now on in every gateway; also the way back to an older one."""
        return PredictorAnswer.of(await registry.activate(predictor_id, ADMIN))


class TrainingRunsController(Controller):
    """Lists and shows training runs."""

    path = "/training-runs"

    @get(summary="List the newest training runs")
    async def list_runs(
        self, registry: NamedDependency[Registry], limit: Limit = 20
    ) -> Listing[TrainingRunAnswer]:
        """Runs, newest first."""
        runs = await registry.runs(limit=limit + 1)
        return Listing.cut([TrainingRunAnswer.of(run) for run in runs], limit)

    @get("/{run_id:uuid}", summary="Show a training run")
    async def show_run(
        self, run_id: FromPath[UUID], registry: NamedDependency[Registry]
    ) -> TrainingRunAnswer:
        """One run; 404 if there is none."""
        return TrainingRunAnswer.of(await registry.run(run_id))
