"""The HTTP server: it answers from the first moment, and the application once that is there."""

import contextlib
import ipaddress
import math
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn
from litestar import Litestar, Response, asgi, route
from litestar.datastructures import Headers
from litestar.types import ASGIApp, Receive, Scope, Send

from gateway.api.connections.limits import ConnectionLimits
from gateway.api.connections.protocol import bounded_protocol
from gateway.api.cors import cors
from gateway.api.errors import exception_handlers
from gateway.api.health import GET_AND_HEAD, Health
from gateway.api.http_metrics import HttpMetrics
from gateway.api.request_id import IdentifyingApp
from gateway.dashboard.view.starting import starting_page
from gateway.errors import GatewayStarting, StartupFailure
from gateway.settings import Settings

KEEP_ALIVE_S: Final = 75  # longer than clients keep idle connections, so that they close first
CLOSE_GRACE_S: Final = 3  # after the drain, to send final events to clients whose answers were cut


class Front:
    """The application that the server calls: `app`, which at first answers that the gateway starts.

    `phase` returns what the start does now.
    """

    def __init__(self, settings: Settings, metrics: HttpMetrics, phase: Callable[[], str]) -> None:
        self.app: ASGIApp = _starting_app(settings, metrics, phase)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request."""
        await self.app(scope, receive, send)


class Server(uvicorn.Server):
    """uvicorn without its signal handling: the parts must stop after the server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to others."""
        yield


def build_server(settings: Settings, front: Front, metrics: HttpMetrics) -> Server:
    """The server of an application, within the settings' bounds.

    StartupFailure if an address of `trusted_proxies` is none.
    """
    return Server(
        uvicorn.Config(
            front,
            http=bounded_protocol(ConnectionLimits.of(settings), metrics),
            ws="none",
            loop="none",
            lifespan="off",
            forwarded_allow_ips=_addresses(settings.trusted_proxies),
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(settings.drain_s) + CLOSE_GRACE_S,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
    )


def _addresses(trusted: str) -> str:
    """The addresses and networks, checked: the server would take a misspelt one for a name."""
    for address in trusted.split(",") if trusted != "*" else ():
        try:
            ipaddress.ip_network(address)
        except ValueError as error:
            raise StartupFailure(f"LMAAS_TRUSTED_PROXIES: {error}") from error
    return trusted


def _starting_app(settings: Settings, metrics: HttpMetrics, phase: Callable[[], str]) -> Litestar:
    """Answers 503 to every request but `/health/live`."""

    @route("/health/live", http_method=GET_AND_HEAD)
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    @route(["/health", "/health/ready"], http_method=GET_AND_HEAD)
    async def ready() -> Response[Health]:
        health = Health(
            status="starting",
            reason=phase(),
            engine="away",
            predictor="away",
            database="away",
            history="away",
            predictor_version=None,
            unusable_version=None,
            predictions="untrained",
            waiting=0,
            running=0,
        )
        return Response(health, status_code=503)

    @asgi("/", is_mount=True, copy_scope=True)
    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        if "text/html" in Headers.from_scope(scope).get("accept", ""):
            await starting_page(phase())(scope, receive, send)
            return
        raise GatewayStarting(f"the gateway starts ({phase()}); try again in a moment")

    return IdentifyingApp(
        route_handlers=[live, ready, refuse],
        exception_handlers=exception_handlers,
        cors_config=cors(settings.cors_origins),
        metrics=metrics,
        logging_config=None,
        openapi_config=None,
    )
