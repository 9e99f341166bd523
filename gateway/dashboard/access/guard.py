"""Guards the pages: a session, the rights of its key, and a token with every change."""

from typing import Any, Final, TypeAlias

from litestar import Request
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from gateway.api.admin.actor import ACTOR, AREA
from gateway.api.guards import CALLER, Connection
from gateway.dashboard.access.sessions import Session, Sessions
from gateway.dashboard.access.viewer import Viewer, Viewers
from gateway.errors import Forbidden, Unauthenticated
from gateway.tenancy.scopes import Scope

COOKIE: Final = "lmaas_session"
MAX_PORT_DIGITS: Final = 5
CSRF_HEADER: Final = "x-csrf-token"
VIEWER: Final = "viewer"  # keys in the request's state, set by the guard
SESSION: Final = "session"
OWN: Final = "own"  # keys in a controller's `opt`
ANYONE: Final = "anyone"
CHATS: Final = "chats"
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})

Looking: TypeAlias = NamedDependency[Viewer]


def cookie_name(connection: Connection) -> str:
    """The cookie's name, with the port that the browser asks: it sends a host's cookies to all."""
    port = connection.headers.get("host", "").rpartition(":")[2]
    known = port.isascii() and port.isdecimal() and len(port) <= MAX_PORT_DIGITS
    return f"{COOKIE}_{port}" if known else COOKIE


def page_of(
    area: Scope | None = None, *, own: bool = False, anyone: bool = False
) -> dict[str, Any]:
    """A controller's `opt`: the area of the admin API that it shows.

    `own`: also for keys of apps, which see what is theirs. `anyone`: for every key.
    """
    return {AREA: area, OWN: own, ANYONE: anyone}


def session_guard(sessions: Sessions, viewers: Viewers) -> Guard:
    """Admits requests of signed-in browsers; `provide_viewer` returns the viewer."""

    async def guard(connection: Connection, handler: BaseRouteHandler) -> None:
        session = sessions.find(connection.cookies.get(cookie_name(connection), ""))
        if session is None:
            raise Unauthenticated("sign in first")
        method = connection.scope["method"]  # type: ignore[typeddict-item]
        reads = method in SAFE
        if not reads and not session.allows(connection.headers.get(CSRF_HEADER, "")):
            raise Forbidden("the page is out of date; load it again")
        try:
            viewer = await viewers.viewer(session.secret, session.app_secret)
        except Unauthenticated:
            sessions.end(session)
            raise
        opt = handler.opt
        if not opt.get(ANYONE):
            viewer.check(opt.get(AREA), reads=reads, own=bool(opt.get(OWN)))
        connection.state[VIEWER], connection.state[SESSION] = viewer, session
        if viewer.grant is not None:
            connection.state[ACTOR] = viewer.grant.name
        if opt.get(CHATS):
            if viewer.chats is None:
                raise Forbidden("this needs the key of an app; enter one in the playground")
            connection.state[CALLER] = viewer.chats

    return guard


async def provide_viewer(request: Request[Any, Any, Any]) -> Viewer:
    """The dependency `viewer`: who looks at the page."""
    viewer = request.state[VIEWER]
    assert isinstance(viewer, Viewer), "the route has no session_guard"
    return viewer


async def provide_session(request: Request[Any, Any, Any]) -> Session:
    """The dependency `session`: the signed-in browser."""
    session = request.state[SESSION]
    assert isinstance(session, Session), "the route has no session_guard"
    return session
