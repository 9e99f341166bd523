"""The routes of the page: `/`, and everything under `/page`."""

from typing import Any, Final, TypeVar

from litestar import Controller, Request, Response, Router, route
from litestar.di import NamedDependency, Provide
from litestar.exceptions import NotFoundException

from gateway.api.admin.actor import provide_actor
from gateway.api.admin.routes import AdminServices
from gateway.api.guards import provide_caller
from gateway.api.openai.ceilings import provide_ceiling
from gateway.api.openai.timeouts import provide_timeouts
from gateway.dashboard.access.attempts import SignInAttempts
from gateway.dashboard.access.guard import (
    cookie_name,
    provide_session,
    provide_viewer,
    session_guard,
)
from gateway.dashboard.access.sessions import Sessions
from gateway.dashboard.access.viewer import Viewers
from gateway.dashboard.errors import SIGN_IN, handlers
from gateway.dashboard.live.board import LiveBoard
from gateway.dashboard.live.gateway import LiveGateway
from gateway.dashboard.live.samples import Samples
from gateway.dashboard.pages.audit import AuditController, SettingsController
from gateway.dashboard.pages.batches import BatchesPageController
from gateway.dashboard.pages.keys import KeysController
from gateway.dashboard.pages.now import NowController
from gateway.dashboard.pages.playground import (
    PlaygroundChat,
    PlaygroundController,
    PlaygroundPredictions,
)
from gateway.dashboard.pages.predictor import PredictorController
from gateway.dashboard.pages.queue import QueueController
from gateway.dashboard.pages.request import RequestController
from gateway.dashboard.pages.requests import RequestsController, provide_wanted
from gateway.dashboard.pages.sign_in import SignInController, SignOutController
from gateway.dashboard.pages.tenants import TenantsController
from gateway.dashboard.pages.what_if import WhatIfController
from gateway.dashboard.replays.runs import ReplayRuns
from gateway.dashboard.view.assets import static_file
from gateway.dashboard.view.headers import HEADERS
from gateway.generation.service import GenerationService
from gateway.parts import Parts
from gateway.prediction.lifecycle.served_quality import ServedQualities
from gateway.settings import Settings
from gateway.tenancy.authentication import Authenticator
from gateway.tenancy.scopes import AdminAccess

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
PAGES: Final[tuple[type[Controller], ...]] = (
    NowController,
    QueueController,
    PredictorController,
    RequestsController,
    RequestController,
    BatchesPageController,
    TenantsController,
    KeysController,
    AuditController,
    SettingsController,
    WhatIfController,
    PlaygroundController,
    PlaygroundChat,
    PlaygroundPredictions,
    SignOutController,
)

T = TypeVar("T")


class Dashboard:
    """The page of one gateway; `start` and `close` frame the time in which it is served."""

    def __init__(
        self,
        service: GenerationService,
        parts: Parts,
        admin: AdminServices,
        admission: AdminAccess,
        authenticator: Authenticator,
        qualities: ServedQualities,
        settings: Settings,
    ) -> None:
        self.sessions = Sessions()
        self.board = LiveBoard(lambda: service.stopping)
        self.samples = Samples(service)
        self._viewers = Viewers(admission, authenticator)
        self.replays = ReplayRuns(service.model, parts.database.url)
        self._live = LiveGateway(service, parts, self.samples)
        self._admin = admin
        self._qualities = qualities
        self._settings = settings

    def start(self) -> None:
        """Take samples from now on."""
        self.samples.start()

    async def close(self) -> None:
        """End the live views and what is replayed, and take no more samples."""
        self.samples.stop()
        await self.replays.close()
        await self.board.close()

    def routers(self) -> list[Any]:
        """What the application serves for the page."""
        shared: dict[str, Provide] = {
            "sessions": _given(self.sessions),
            "viewers": _given(self._viewers),
            "attempts": _given(SignInAttempts()),
        }
        return [
            Router(
                "/",
                route_handlers=[front_page, static_file],
                dependencies=dict(shared),
                include_in_schema=False,
            ),
            Router(
                "/",
                route_handlers=[SignInController],
                dependencies=dict(shared),
                exception_handlers=handlers,
                include_in_schema=False,
            ),
            Router(
                "/",
                route_handlers=PAGES,
                guards=[session_guard(self.sessions, self._viewers)],
                dependencies={
                    **shared,
                    **self._admin.dependencies(),
                    "qualities": _given(self._qualities),
                    "settings": _given(self._settings),
                    "replays": _given(self.replays),
                    "live": _given(self._live),
                    "board": _given(self.board),
                    "actor": Provide(provide_actor),
                    "wanted": Provide(provide_wanted),
                    "caller": Provide(provide_caller),
                    "timeouts": Provide(provide_timeouts),
                    "ceiling": Provide(provide_ceiling),
                    "viewer": Provide(provide_viewer),
                    "session": Provide(provide_session),
                },
                exception_handlers=handlers,
                include_in_schema=False,
            ),
        ]


@route("/", http_method=METHODS)
async def front_page(
    request: Request[Any, Any, Any], sessions: NamedDependency[Sessions]
) -> Response[None]:
    """Leads browsers to the page, or to the sign-in; others are answered that there is nothing."""
    if request.method not in {"GET", "HEAD"} or "text/html" not in request.headers.get(
        "accept", ""
    ):
        raise NotFoundException
    known = sessions.find(request.cookies.get(cookie_name(request), ""))
    there = SIGN_IN if known is None else "/page/now"
    return Response(None, status_code=303, headers={**HEADERS, "location": there})


def _given(service: T) -> Provide:
    return Provide(lambda: service, sync_to_thread=False)
