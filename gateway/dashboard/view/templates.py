"""Renders templates: every value is escaped, and an undefined one is an error."""

from collections.abc import Mapping
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from litestar import Response
from litestar.datastructures import Cookie
from msgspec import Struct

from gateway.dashboard.access.sessions import Session
from gateway.dashboard.access.viewer import Viewer
from gateway.dashboard.view import formats
from gateway.dashboard.view.assets import ADDRESSES
from gateway.dashboard.view.headers import HEADERS
from gateway.tenancy.scopes import Scope

HTML: Final = "text/html; charset=utf-8"


class NavigationLink(Struct, frozen=True):
    """A link of the navigation, and the rights that its page needs."""

    name: str
    address: str
    area: Scope | None = None
    own: bool = False
    anyone: bool = False
    chats: bool = False  # only with the key of an app


NAVIGATION: Final = (
    NavigationLink("Now", "/page/now", anyone=True),
    NavigationLink("Queue", "/page/queue", Scope.ENGINE, own=True),
    NavigationLink("Predictor", "/page/predictor", Scope.PREDICTORS),
    NavigationLink("Requests", "/page/requests", Scope.TENANTS, own=True),
    NavigationLink("What if", "/page/what-if", Scope.ENGINE),
    NavigationLink("Batches", "/page/batches", chats=True),
    NavigationLink("Tenants", "/page/tenants", Scope.TENANTS),
    NavigationLink("Keys", "/page/keys", Scope.TENANTS),
    NavigationLink("Audit", "/page/audit"),
    NavigationLink("Settings", "/page/settings"),
    NavigationLink("Playground", "/page/playground", anyone=True),
)


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("gateway.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for filter_ in (
        formats.number,
        formats.decimal,
        formats.percent,
        formats.seconds,
        formats.moment,
        formats.ago,
        formats.short_id,
    ):
        made.filters[filter_.__name__] = filter_
    made.globals["assets"] = ADDRESSES
    return made


ENVIRONMENT: Final = _environment()


def links_of(viewer: Viewer) -> list[NavigationLink]:
    """The pages that a viewer may see."""
    return [link for link in NAVIGATION if _may_see(viewer, link)]


def _may_see(viewer: Viewer, link: NavigationLink) -> bool:
    if link.chats:
        return viewer.chats is not None
    return link.anyone or viewer.may(link.area, own=link.own)


def render(template: str, context: Mapping[str, Any]) -> str:
    """The text of a template."""
    return ENVIRONMENT.get_template(template).render(context)


def fragment(template: str, **context: Any) -> Response[str]:
    """A part of a page."""
    return Response(render(template, context), media_type=HTML, headers=HEADERS)


def page(
    template: str, viewer: Viewer, session: Session, *, path: str, **context: Any
) -> Response[str]:
    """A whole page of a signed-in viewer; `path` is that of its link."""
    given = {
        "viewer": viewer,
        "csrf": session.csrf,
        "links": links_of(viewer),
        "path": path,
        **context,
    }
    return Response(render(template, given), media_type=HTML, headers=HEADERS)


def bare_page(
    template: str, *, status: int = 200, cookies: list[Cookie] | None = None, **context: Any
) -> Response[str]:
    """A page without navigation: sign-in and errors."""
    return Response(
        render(template, context),
        status_code=status,
        media_type=HTML,
        headers=HEADERS,
        cookies=cookies,
    )
