"""Authenticates callers of the admin API and names them for the audit trail."""

from typing import Any, Final, TypeAlias

from litestar import Request
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from gateway.api.guards import Connection, bearer
from gateway.tenancy.scopes import AdminAccess, Scope

ACTOR: Final = "actor"  # key in the request's state, set by the guard
AREA: Final = "area"  # key in a controller's `opt`

Actor: TypeAlias = NamedDependency[str]


def area(scope: Scope) -> dict[str, Any]:
    """A controller's `opt`: the scope required to change what it manages."""
    return {AREA: scope}


def admission_guard(admission: AdminAccess) -> Guard:
    """Admits the admin key, and scoped keys with the scope of the route's `AREA`."""

    async def guard(connection: Connection, handler: BaseRouteHandler) -> None:
        scope = handler.opt.get(AREA)
        connection.state[ACTOR] = await admission.admit(
            bearer(connection),
            Scope(scope) if scope is not None else None,
            reads=connection.scope["method"] in {"GET", "HEAD"},  # type: ignore[typeddict-item]
        )

    return guard


async def provide_actor(request: Request[Any, Any, Any]) -> str:
    """The dependency `actor`: the name that `admission_guard` found."""
    actor = request.state[ACTOR]
    assert isinstance(actor, str), "the route has no admission_guard"
    return actor
