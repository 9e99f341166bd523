"""Predictor: how good the predictions are, where they are worst, and the versions."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, TypeAlias
from uuid import UUID

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, QueryParameter

from gateway.api.admin.actor import Actor
from gateway.dashboard.access.guard import Looking, page_of
from gateway.dashboard.access.sessions import Session
from gateway.dashboard.charts.density import DensityChart, within_factor_two
from gateway.dashboard.charts.quality_chart import coverage_chart, held_chart
from gateway.dashboard.view.templates import fragment, page
from gateway.generation.service import GenerationService
from gateway.prediction.lifecycle.comparison import VersionComparer
from gateway.prediction.lifecycle.drift_series import DriftSeries
from gateway.prediction.lifecycle.registry import Registry
from gateway.prediction.lifecycle.runs import TrainingRuns
from gateway.prediction.lifecycle.served_quality import MAX_ROWS, ServedQualities
from gateway.tenancy.scopes import Scope

WINDOWS: Final = {1: "1 h", 24: "24 h", 168: "7 d", 720: "30 d"}  # hours
BUCKETS: Final = 30
VERSIONS: Final = 20
RUNS: Final = 5
NEW_VERSIONS: Final = "versions-changed"  # the event that has the page ask for the versions
PHASES: Final = ("drawing", "reading", "fitting", "storing")

Hours = Annotated[int, QueryParameter(ge=1, le=8_760, description="length of the window")]
Version = Annotated[UUID, QueryParameter(description="a version")]


class PredictorPanels:
    """The parts of the page that change: training runs and versions; `changes`: the viewer may."""

    def __init__(self, model: str, registry: Registry, *, changes: bool) -> None:
        self._model = model
        self._registry = registry
        self._changes = changes

    async def runs(self) -> Response[str]:
        """The newest training runs; once all have ended, the page asks for the versions."""
        runs = await self._registry.runs(self._model, limit=RUNS)
        answer = fragment("predictor_runs.html", runs=runs, phases=PHASES, changes=self._changes)
        if all(run.finished_at is not None for run in runs):
            answer.headers["hx-trigger"] = NEW_VERSIONS
        return answer

    async def versions(self) -> Response[str]:
        """The newest versions."""
        versions = await self._registry.list(self._model, limit=VERSIONS)
        return fragment("predictor_versions.html", versions=versions, changes=self._changes)


Panels: TypeAlias = NamedDependency[PredictorPanels]


async def provide_panels(
    viewer: Looking,
    service: NamedDependency[GenerationService],
    registry: NamedDependency[Registry],
) -> PredictorPanels:
    """The dependency `panels`."""
    changes = viewer.may(Scope.PREDICTORS, reads=False)
    return PredictorPanels(service.model, registry, changes=changes)


class PredictorController(Controller):
    """Shows the quality of predictions, and trains, compares, activates and rolls back versions."""

    path = "/page/predictor"
    opt = page_of(Scope.PREDICTORS)
    dependencies = {"panels": Provide(provide_panels)}  # noqa: RUF012  as the framework declares it

    @get("/")
    async def show(
        self,
        viewer: Looking,
        session: NamedDependency[Session],
        service: NamedDependency[GenerationService],
        qualities: NamedDependency[ServedQualities],
        series: NamedDependency[DriftSeries],
        registry: NamedDependency[Registry],
        hours: Hours = 24,
    ) -> Response[str]:
        """The page."""
        window, now = timedelta(hours=hours), datetime.now(UTC)
        quality = await qualities.read(window, BUCKETS)
        ranked = await series.show(app=None, window=window, buckets=BUCKETS, until=now)
        versions = await registry.list(service.model, limit=VERSIONS)
        drift = service.drift.quality()
        return page(
            "predictor.html",
            viewer,
            session,
            path=self.path,
            hours=hours,
            windows=WINDOWS,
            quality=quality,
            most_rows=MAX_ROWS,
            density=DensityChart(quality.density),
            near=within_factor_two(quality.density),
            covered=_mean([(each.rows, each.coverage) for each in quality.buckets]),
            held=_mean([(each.tokens, each.held) for each in quality.buckets]),
            tau=drift.tau if drift else None,
            coverage=coverage_chart(quality.buckets, ranked, window, now),
            held_over_time=held_chart(quality.buckets, window, now),
            versions=versions,
            changes=viewer.may(Scope.PREDICTORS, reads=False),
            runs=await registry.runs(service.model, limit=RUNS),
            phases=PHASES,
        )

    @get("/runs")
    async def show_runs(self, panels: Panels) -> Response[str]:
        """The newest training runs, which the page asks for while one runs."""
        return await panels.runs()

    @post("/train", status_code=200)
    async def train(
        self, panels: Panels, runs: NamedDependency[TrainingRuns], actor: Actor
    ) -> Response[str]:
        """Start a training run, as `POST /admin/predictors` does."""
        await runs.start(actor)
        return await panels.runs()

    @post("/runs/{run_id:uuid}/cancel", status_code=200)
    async def cancel_run(
        self,
        run_id: FromPath[UUID],
        panels: Panels,
        runs: NamedDependency[TrainingRuns],
        actor: Actor,
    ) -> Response[str]:
        """Cancel a training run."""
        await runs.cancel(run_id, actor)
        return await panels.runs()

    @get("/versions")
    async def show_versions(self, panels: Panels) -> Response[str]:
        """The newest versions."""
        return await panels.versions()

    @post("/versions/{predictor_id:uuid}/activate", status_code=200)
    async def activate(
        self,
        predictor_id: FromPath[UUID],
        panels: Panels,
        registry: NamedDependency[Registry],
        actor: Actor,
    ) -> Response[str]:
        """Activate a version."""
        await registry.activate(predictor_id, actor)
        return await panels.versions()

    @post("/rollback", status_code=200)
    async def roll_back(
        self,
        panels: Panels,
        service: NamedDependency[GenerationService],
        registry: NamedDependency[Registry],
        actor: Actor,
    ) -> Response[str]:
        """Activate the version that was active before."""
        await registry.roll_back(service.model, actor)
        return await panels.versions()

    @get("/compare")
    async def compare(
        self, comparison: NamedDependency[VersionComparer], first: Version, second: Version
    ) -> Response[str]:
        """Two versions on the same newest history; takes some seconds."""
        return fragment("comparison.html", compared=await comparison.compare(first, second))


def _mean(weighted: list[tuple[float, float]]) -> float | None:
    total = sum(weight for weight, _ in weighted)
    return sum(weight * value for weight, value in weighted) / total if total else None
