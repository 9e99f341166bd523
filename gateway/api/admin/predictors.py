"""`/admin/predictors`: versions of the length predictor."""

from datetime import datetime
from typing import Any, Final, Literal, Self
from uuid import UUID

from litestar import Controller, Response, get, post
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, RawBody
from msgspec import Struct

from gateway.api.admin.actor import Actor, area
from gateway.api.admin.body import LARGEST_UPLOAD, raw_body
from gateway.api.admin.training import TrainingRequest, TrainingRunAnswer
from gateway.api.envelope import Limit, Listing, to_answer
from gateway.api.openapi import errors
from gateway.prediction.lifecycle.comparison import VersionComparer, VersionComparison
from gateway.prediction.lifecycle.registry import Registry
from gateway.prediction.lifecycle.runs import TrainingRuns
from gateway.prediction.model.artefact import checksum
from gateway.prediction.training.scorecard import Scorecard
from gateway.tenancy.paging import Cursor
from gateway.tenancy.scopes import Scope
from models import Predictor

BINARY: Final = "application/octet-stream"
CHECKSUM: Final = "x-lmaas-checksum"


class PredictorAnswer(Struct, frozen=True, kw_only=True):
    """A version: its training data, metrics and state.

    `replaced_id` is the version that was active before it, to which a roll-back returns.
    """

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
    replaced_id: UUID | None

    @classmethod
    def of(cls, version: Predictor) -> Self:
        """The version as clients see it."""
        state = "active" if version.active else "inactive"
        return to_answer(cls, version, state=state, checksum=version.checksum.hex())


class ComparisonAnswer(Struct, frozen=True, kw_only=True):
    """Two versions, both scored on the same newest `rows` of history.

    `unseen`: neither version was trained on these rows. If they could not be scored, `why_not`
    gives the reason. Lower is better except for `tau` and, up to 0.9, `coverage`.
    """

    versions: list[PredictorAnswer]
    rows: int
    unseen: bool
    scorecards: list[Scorecard] | None
    why_not: str | None

    @classmethod
    def of(cls, compared: VersionComparison) -> Self:
        """The comparison as clients see it."""
        versions = [PredictorAnswer.of(version) for version in compared.versions]
        return to_answer(cls, compared, versions=versions)


class PredictorsController(Controller):
    """Trains, lists, shows, compares, activates, exports and imports versions."""

    path = "/predictors"
    opt = area(Scope.PREDICTORS)

    @post(
        status_code=202,
        summary="Train a new version",
        responses=errors(409),
    )
    async def train(
        self,
        runs: NamedDependency[TrainingRuns],
        actor: Actor,
        data: JSONBody[TrainingRequest | None] = None,
    ) -> TrainingRunAnswer:
        """The run, to poll at `/admin/training-runs/{id}`; 409 while another run is active."""
        wanted = data or TrainingRequest()
        return to_answer(TrainingRunAnswer, await runs.start(actor, activate=wanted.activate))

    @get(summary="List the newest versions")
    async def list_predictors(
        self, registry: NamedDependency[Registry], limit: Limit = 20
    ) -> Listing[PredictorAnswer]:
        """Versions, newest first."""
        versions = await registry.list(limit=limit + 1)
        page = Cursor(limit).page(versions)
        return Listing(data=[PredictorAnswer.of(each) for each in page.items], has_more=page.more)

    @get("/{predictor_id:uuid}", summary="Show a version")
    async def show_predictor(
        self, predictor_id: FromPath[UUID], registry: NamedDependency[Registry]
    ) -> PredictorAnswer:
        """One version with its metrics; 404 if there is none."""
        return PredictorAnswer.of(await registry.show(predictor_id))

    @post(
        "/{predictor_id:uuid}/activate",
        status_code=200,
        summary="Activate a version",
        responses=errors(409),
    )
    async def activate_predictor(
        self, predictor_id: FromPath[UUID], registry: NamedDependency[Registry], actor: Actor
    ) -> PredictorAnswer:
        """The version, now active in every gateway.

        409 if it cannot be used, 400 `predictor_broken` if a trial of it fails.
        """
        return PredictorAnswer.of(await registry.activate(predictor_id, actor))

    @post(
        "/rollback",
        status_code=200,
        summary="Roll back to the previous version",
        responses=errors(409),
    )
    async def roll_back(
        self,
        registry: NamedDependency[Registry],
        runs: NamedDependency[TrainingRuns],
        actor: Actor,
    ) -> PredictorAnswer:
        """The previously active version, active again in every gateway.

        Repeating it goes back one more version; 409 if there is none.
        """
        return PredictorAnswer.of(await registry.roll_back(runs.model, actor))

    @get(
        "/{predictor_id:uuid}/compare/{other_id:uuid}",
        summary="Compare two versions",
        responses=errors(409),
    )
    async def compare_predictors(
        self,
        predictor_id: FromPath[UUID],
        other_id: FromPath[UUID],
        comparison: NamedDependency[VersionComparer],
    ) -> ComparisonAnswer:
        """Their metrics, and both scored on the newest history; takes some seconds.

        404 if there is no such version, 409 for versions of different models.
        """
        return ComparisonAnswer.of(await comparison.compare(predictor_id, other_id))

    @get(
        "/{predictor_id:uuid}/export",
        summary="Export a version",
        responses=errors(409),
        media_type=BINARY,
        response_headers=[
            ResponseHeader(
                name=CHECKSUM, description="SHA-256 of the body", documentation_only=True
            )
        ],
    )
    async def export_predictor(
        self, predictor_id: FromPath[UUID], registry: NamedDependency[Registry], actor: Actor
    ) -> Response[bytes]:
        """The version's bytes, which include its checksum; 409 if it is damaged."""
        stored = await registry.export_version(predictor_id, actor)
        named = f'attachment; filename="{predictor_id}.lmaas-predictor"'
        headers = {CHECKSUM: checksum(stored).hex(), "content-disposition": named}
        return Response(stored, headers=headers, media_type=BINARY)

    @post(
        "/import",
        summary="Import a version",
        responses=errors(409),
        request_max_body_size=LARGEST_UPLOAD,
        operation_class=raw_body(BINARY, "an exported version"),
    )
    async def import_predictor(
        self,
        body: RawBody,
        registry: NamedDependency[Registry],
        runs: NamedDependency[TrainingRuns],
        actor: Actor,
    ) -> PredictorAnswer:
        """The version, inactive.

        409 `predictor_refused` if the bytes are damaged, or belong to another model, tokenizer,
        chat template or release; 400 `predictor_broken` if a trial of it fails.
        """
        version = await registry.import_version(
            body, model=runs.model, model_hash=runs.model_hash, by=actor
        )
        return PredictorAnswer.of(version)
