"""Who calls the admin API, as the audit trail names them."""

from typing import Any, Final, TypeAlias

from litestar import Request
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from gateway.api.guards import Connection, bearer
from gateway.tenancy.scopes import AdminAccess, Scope

ACTOR: Final = "actor"  # where the guard leaves what the dependency hands on
AREA: Final = "area"

Actor: TypeAlias = NamedDependency[str]


def area(scope: Scope) -> dict[str, Any]:
    """A controller's `opt`: the scope that may change what it manages."""
    return {AREA: scope}


def admission_guard(admission: AdminAccess) -> Guard:
    """Lets in whoever has the admin key, or one with the scope of the route's `AREA`."""

    async def guard(connection: Connection, handler: BaseRouteHandler) -> None:
        scope = handler.opt.get(AREA)
        connection.state[ACTOR] = await admission.admit(
            bearer(connection),
            Scope(scope) if scope is not None else None,
            reads=connection.scope["method"] in {"GET", "HEAD"},  # type: ignore[typeddict-item]
        )

    return guard


async def provide_actor(request: Request[Any, Any, Any]) -> str:
    """The name that `admission_guard` found: the dependency `actor`."""
    actor = request.state[ACTOR]
    assert isinstance(actor, str), "the route has no admission_guard"
    return actor
