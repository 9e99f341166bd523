"""`/health/live` and `/health/ready`, by GET and HEAD; `/health` is the latter."""

from typing import Final
from uuid import UUID

from litestar import Controller, HttpMethod, Response, route
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Struct

from gateway.generation.service import GenerationService
from gateway.parts import Parts

GET_AND_HEAD: Final = (HttpMethod.GET, HttpMethod.HEAD)


class Health(Struct):
    """The state of the gateway and its parts.

    `status` is `ready`, `starting`, `stopping`, or `unavailable` while no request is taken;
    `reason` says why it is not ready. A part is `connected`, `away`, `held` by an operator, or
    `starting` and what it does. `history` is `connected` while records get to disk and database,
    `delayed` while the database takes none, `failing` or `stalled` while the disk takes none,
    `full` if no more may wait. `predictions` is `model`, or `untrained` without a version;
    `fallback` if no version can be used, or more than 5 % of the last 200 requests that waited
    100 ms or longer started without the model's prediction. `unusable_version` is the active
    version if this gateway cannot load it: the one before it, or the history of lengths, predicts
    in its place.
    """

    status: str
    engine: str
    predictor: str
    predictor_version: UUID | None
    unusable_version: UUID | None
    predictions: str
    waiting: int
    running: int
    database: str
    history: str
    reason: str | None = None


class HealthController(Controller):
    """For load balancers and supervisors; no key is needed."""

    path = "/health"
    tags = ("Health",)

    @route("/live", http_method=GET_AND_HEAD, summary="Is the process there?")
    async def live(self) -> dict[str, str]:
        """Answers as long as the event loop turns."""
        return {"status": "ok"}

    @route(
        ["/", "/ready"],
        http_method=GET_AND_HEAD,
        summary="Would a request be served now?",
        responses={503: ResponseSpec(Health, description="it would not", generate_examples=False)},
    )
    async def ready(
        self, service: NamedDependency[GenerationService], parts: NamedDependency[Parts]
    ) -> Response[Health]:
        """200 when a request would be served, else 503. A predictor that is away costs nothing
        but accuracy, and a database that is away delays history, so neither makes it unready,
        before too much history waits.
        """
        states, table = parts.states, service.scheduler.table
        status, reason = "ready", None
        if service.stopping:
            status, reason = "stopping", "the gateway stops"
        elif not service.ready:
            part = "history" if states["history"] == "full" else "engine"
            status, reason = "unavailable", f"{part}: {states[part]}"
        health = Health(
            status=status,
            reason=reason,
            engine=states["engine"],
            predictor=states["predictor"],
            database=states["database"],
            history=states["history"],
            predictor_version=service.predictor_version,
            unusable_version=service.unusable_version,
            predictions=_predictions(service),
            waiting=len(table.waiting),
            running=len(table.running),
        )
        return Response(health, status_code=200 if status == "ready" else 503)


def _predictions(service: GenerationService) -> str:
    if service.predictor_version is None:
        return "untrained" if service.unusable_version is None else "fallback"
    return "fallback" if service.scheduler.sources.falling_back else "model"
