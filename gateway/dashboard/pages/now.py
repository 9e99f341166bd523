"""Now: the health of each part, memory, queue, tokens, predictions, and the last alarms."""

import time
from collections.abc import Sequence
from typing import Final

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.response import Stream
from msgspec import Struct

from gateway.dashboard.access.guard import Looking, page_of
from gateway.dashboard.access.sessions import Session
from gateway.dashboard.access.viewer import Viewer, Viewers
from gateway.dashboard.charts.live_charts import memory_chart, requests_chart, tokens_chart
from gateway.dashboard.live.board import LiveBoard
from gateway.dashboard.live.forecast import MemoryForecast, forecast_memory
from gateway.dashboard.live.gateway import LiveGateway
from gateway.dashboard.live.stream import live_stream
from gateway.dashboard.view.formats import percent, seconds
from gateway.dashboard.view.templates import page, render
from gateway.generation.service import GenerationService
from gateway.logs import Alarm, alarms
from gateway.tenancy.scopes import Scope

MAX_ALARMS: Final = 8
FALLBACKS: Final = {
    "untrusted": "by arrival: predictions are not trusted",
    "short_queue": "by arrival: the queue is short",
}
SOURCES: Final = {
    "model+embeddings": "model, with sentence embeddings",
    "model": "model",
    "app": "history of the app",
    "tenant": "history of the tenant",
    "global": "history of all apps",
    "prior": "prior: no history",
}


class Part(Struct, frozen=True):
    """A part of the gateway: `mood` is good, busy or bad."""

    name: str
    state: str
    mood: str
    detail: str = ""


class Source(Struct, frozen=True):
    """Requests that started by a source of predictions."""

    name: str
    count: int
    share: float


class NowView(Struct, frozen=True):
    """The live content of the page; `alarms` for those who may see the engine's state."""

    gateway: LiveGateway
    alarms: bool

    def render(self) -> str:
        """The present content, as HTML."""
        service, samples = self.gateway.service, [*self.gateway.samples]
        forecast, now_s = forecast_memory(service.scheduler), time.monotonic()
        drift = service.drift.quality()
        newest = samples[-1] if samples else None
        return render(
            "now_live.html",
            {
                "parts": parts_of(self.gateway),
                "tiles": _tiles(forecast),
                "newest": newest,
                "memory": memory_chart(samples, forecast, now_s),
                "requests": requests_chart(samples, now_s),
                "tokens": tokens_chart(samples, now_s),
                "pool": _pool(service),
                "sources": sources_of(service),
                "quality": drift,
                "shows_alarms": self.alarms,
                "alarms": self.newest_alarms(),
            },
        )

    def newest_alarms(self) -> Sequence[Alarm]:
        """The last alarms, if they may be shown."""
        return alarms.newest(MAX_ALARMS) if self.alarms else ()


class NowController(Controller):
    """Shows the gateway as it is at this moment."""

    opt = page_of(anyone=True)

    @get("/page/now")
    async def show(
        self, viewer: Looking, session: NamedDependency[Session], live: NamedDependency[LiveGateway]
    ) -> Response[str]:
        """The page."""
        view = view_of(viewer, live)
        return page("now.html", viewer, session, path="/page/now", live=view.render())

    @get("/page/now/live")
    async def follow(
        self,
        viewer: Looking,
        session: NamedDependency[Session],
        live: NamedDependency[LiveGateway],
        board: NamedDependency[LiveBoard],
        viewers: NamedDependency[Viewers],
    ) -> Stream:
        """Its content, about once a second."""
        return live_stream(view_of(viewer, live), board, session, viewers)


def view_of(viewer: Viewer, live: LiveGateway) -> NowView:
    """What this viewer sees."""
    return NowView(live, viewer.may(Scope.ENGINE))


def parts_of(live: LiveGateway) -> list[Part]:
    """The parts and their states."""
    service, states, restarts = live.service, live.parts.states, live.parts.restarts
    info, scheduler = service.scheduler.engine.info, service.scheduler
    engine = states["engine"]
    described = "" if info is None else f"{info.device}, {info.dtype}"
    fallback = scheduler.fallback
    engines = _engines(live)
    return [
        *(
            engines
            or [Part("Engine", engine, _mood(engine), _detail(described, restarts["engine"]))]
        ),
        Part(
            "Predictor",
            states["predictor"],
            _mood(states["predictor"]),
            _detail("", restarts["predictor"]),
        ),
        Part(
            "Database",
            states["database"],
            _mood(states["database"]),
            _detail("", restarts["database"]),
        ),
        Part("History", states["history"], _mood(states["history"]), ""),
        _predictions(service),
        Part(
            "Policy",
            scheduler.policy.name,
            "busy" if fallback == "untrusted" else "good",
            FALLBACKS.get(fallback or "", ""),
        ),
    ]


def _engines(live: LiveGateway) -> list[Part]:
    """Each of several engines; none of a single one."""
    sessions, states = live.service.scheduler.engine, live.parts.each_engine
    return [
        Part(name.capitalize(), state, _mood(state), session.info.device if session.info else "")
        for session, (name, state) in zip(sessions, states.items(), strict=False)
    ]


def sources_of(service: GenerationService) -> list[Source]:
    """Starts by source, the best source first; those without starts are left out."""
    counts = service.scheduler.sources.counts
    total = sum(counts.values())
    return [
        Source(words, counts[name], counts[name] / total)
        for name, words in SOURCES.items()
        if counts.get(name)
    ]


def _predictions(service: GenerationService) -> Part:
    if service.predictor_version is None:
        if service.unusable_version is None:
            return Part("Predictions", "untrained", "busy", "lengths come from history")
        return Part("Predictions", "fallback", "bad", "the active version cannot be loaded")
    if service.scheduler.sources.falling_back:
        return Part("Predictions", "fallback", "busy", "too many starts go by history")
    return Part("Predictions", "model", "good", f"version {service.predictor_version.hex[-8:]}")


def _mood(state: str) -> str:
    if state == "connected":
        return "good"
    return "bad" if state in {"away", "full", "refused"} else "busy"


def _detail(described: str, restarts: int) -> str:
    restarted = f"restarted {restarts}×" if restarts else ""
    return ", ".join(each for each in (described, restarted) if each)


def _pool(service: GenerationService) -> str:
    kv = service.scheduler.engine.kv
    if kv is None or not kv.pages:
        return ""
    return f"of {kv.pages * kv.page_tokens:,} tokens"


def _tiles(forecast: MemoryForecast | None) -> dict[str, str]:
    """The predicted peak in words."""
    if forecast is None:
        return {"peak": "–", "peak_detail": "nothing runs"}
    peak = forecast.peak
    band = f"in {seconds(peak.in_s)}, {100 * peak.low:.0f} – {100 * peak.high:.0f} %"
    return {"peak": percent(peak.mean, 1), "peak_detail": "now" if peak.in_s < 1 else band}
