"""Guards the model's routes with API keys. `admin.actor` guards the admin API.

Guards run before the body is read, so an unauthenticated client gets no validation errors.
"""

from typing import Any, Final

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard

from gateway.errors import Unauthenticated
from gateway.tenancy.authentication import Authenticator
from gateway.tenancy.caller import Caller

SCHEME: Final = "bearer"
CALLER: Final = "caller"  # key in the request's state, set by the guard

Connection = ASGIConnection[Any, Any, Any, Any]


def bearer(connection: Connection) -> str:
    """The secret of the Authorization header. Unauthenticated if there is none."""
    scheme, _, secret = connection.headers.get("authorization", "").partition(" ")
    secret = secret.strip()
    if scheme.lower() != SCHEME or not secret:
        raise Unauthenticated("an API key is needed: send the header 'Authorization: Bearer <key>'")
    return secret


def api_key_guard(authenticator: Authenticator) -> Guard:
    """Admits valid API keys; `provide_caller` returns the caller."""

    async def guard(connection: Connection, _: BaseRouteHandler) -> None:
        connection.state[CALLER] = await authenticator.authenticate(bearer(connection))

    return guard


async def provide_caller(request: Request[Any, Any, Any]) -> Caller:
    """The dependency `caller`: the caller that `api_key_guard` admitted."""
    caller = request.state[CALLER]
    assert isinstance(caller, Caller), "the route has no api_key_guard"
    return caller
