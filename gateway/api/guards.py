"""Who may call the model: whoever has an API key. `admin.actor` guards the admin API.

Guards run before the body is read, so a stranger learns nothing from it.
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
CALLER: Final = "caller"  # where the guard leaves what the dependency hands on

Connection = ASGIConnection[Any, Any, Any, Any]


def bearer(connection: Connection) -> str:
    """The secret of the Authorization header. Unauthenticated if there is none."""
    scheme, _, secret = connection.headers.get("authorization", "").partition(" ")
    secret = secret.strip()
    if scheme.lower() != SCHEME or not secret:
        raise Unauthenticated("an API key is needed: send the header 'Authorization: Bearer <key>'")
    return secret


def api_key_guard(authenticator: Authenticator) -> Guard:
    """Lets in whoever has a valid API key; `provide_caller` then tells who it is."""

    async def guard(connection: Connection, _: BaseRouteHandler) -> None:
        connection.state[CALLER] = await authenticator.authenticate(bearer(connection))

    return guard


async def provide_caller(request: Request[Any, Any, Any]) -> Caller:
    """The caller that `api_key_guard` let in: the dependency `caller`."""
    caller = request.state[CALLER]
    assert isinstance(caller, Caller), "the route has no api_key_guard"
    return caller
