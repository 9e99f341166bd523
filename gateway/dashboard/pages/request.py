"""One request: where its time went, what was predicted, and why it waited."""

from typing import Final

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Struct

from gateway.dashboard.access.guard import Looking, page_of
from gateway.dashboard.access.sessions import Session
from gateway.dashboard.access.viewer import Viewer
from gateway.dashboard.charts.length_bar import LengthBar, LengthScale
from gateway.dashboard.charts.waterfall import Span, spans_of
from gateway.dashboard.view.templates import fragment, page
from gateway.generation.insight.explanation import Explanation
from gateway.generation.insight.progress import RequestProgress
from gateway.generation.service import GenerationService
from gateway.history.requests import RequestHistory, known_id, no_request
from gateway.quantiles import MEDIAN, P90
from gateway.tenancy.scopes import Scope

MOST_SHOWN: Final = 1.25  # of what was predicted or came: the end of the axis of lengths


class RequestView(Struct, frozen=True):
    """A request and its drawings; `progress` while it waits or runs."""

    it: Explanation
    spans: list[Span]
    bar: LengthBar
    low: float
    median: float
    high: float
    verdict: str
    progress: RequestProgress | None


class RequestController(Controller):
    """Shows a request; keys of apps see those of their tenant."""

    path = "/page/requests/{request_id:str}"
    opt = page_of(Scope.ENGINE, own=True)

    @get("/")
    async def show(
        self,
        request_id: FromPath[str],
        viewer: Looking,
        session: NamedDependency[Session],
        service: NamedDependency[GenerationService],
        requests: NamedDependency[RequestHistory],
    ) -> Response[str]:
        """The page; `request_id` may also be an answer's `id`."""
        view = await _view(request_id, viewer, service, requests)
        return page("request.html", viewer, session, path="/page/requests", view=view)

    @get("/state")
    async def show_state(
        self,
        request_id: FromPath[str],
        viewer: Looking,
        service: NamedDependency[GenerationService],
        requests: NamedDependency[RequestHistory],
    ) -> Response[str]:
        """Its content, which the page asks for while the request waits or runs."""
        view = await _view(request_id, viewer, service, requests)
        return fragment("request_state.html", view=view)


async def _view(
    name: str, viewer: Viewer, service: GenerationService, requests: RequestHistory
) -> RequestView:
    """NotFound also for a request of another tenant than the viewer's."""
    known = known_id(name)
    it = await service.scheduler.explain(known, requests)
    if viewer.tenant not in {None, it.tenant_id}:
        raise no_request(name)
    low, median, high = it.quantiles[0], it.quantiles[MEDIAN], it.quantiles[P90]
    end = MOST_SHOWN * max(high, it.generation_tokens, 1.0)
    bar = LengthBar(
        LengthScale(min(end, max(it.max_tokens, 1))), low, median, high, it.generation_tokens
    )
    progress = service.scheduler.progress(known, it.tenant_id)
    return RequestView(
        it, spans_of(it.times), bar, low, median, high, _verdict(it, low, high), progress
    )


def _verdict(it: Explanation, low: float, high: float) -> str:
    """The prediction against the truth, in words."""
    if it.state != "ended":
        return "beyond its P90 already" if it.generation_tokens > high else "not ended yet"
    if it.finish_reason != "stop":
        return "it was cut off: its natural length is not known"
    if it.generation_tokens > high:
        return "longer than predicted: beyond P90, as one of ten is to be"
    return "shorter than predicted: below P10" if it.generation_tokens < low else "within the band"
