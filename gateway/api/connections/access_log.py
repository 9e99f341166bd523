"""One log event for each request that the application answered."""

import time
from typing import Final

import structlog
from litestar.types import HTTPScope, LifeSpanSend, Message, Receive, Send
from litestar.types.asgi_types import ReceiveMessage

from gateway.api.admin.actor import ACTOR
from gateway.api.guards import CALLER
from gateway.api.http_metrics import ANSWERED, ERROR_CODE, GENERATION, GONE, NO_ROUTE, RECEIVED_S
from gateway.tenancy.caller import Caller

PAGE: Final = "/page/requests/"  # where the page shows a request
PROBES: Final = ("/health", "/metrics")  # routes that are called all the time: level debug

log = structlog.get_logger(__name__)


class Exchange:
    """A request and its response: counts the bytes of their bodies, and logs them at the end.

    Never a body, a path as it was sent, or the name of a user.
    """

    def __init__(self, scope: HTTPScope, receive: Receive, send: Send | LifeSpanSend) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._began_s = time.monotonic()
        self._status = 0
        self._received = 0
        self._sent = 0
        self._complete = False

    @property
    def took_ms(self) -> float:
        """Milliseconds since its arrival."""
        return (time.monotonic() - self._began_s) * 1000

    async def receive(self) -> ReceiveMessage:
        """The next part of the request."""
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
            if not message.get("more_body", False):
                self._scope.setdefault("state", {})[RECEIVED_S] = time.monotonic()
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the response."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
        elif message["type"] == "http.response.body" and not self._scope["state"].get(GONE):
            self._sent += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
        await self._send(message)  # type: ignore[arg-type]

    def log(self) -> None:
        """Log it, once it has ended; what the connection answered itself has an event already."""
        state = self._scope.get("state", {})
        if state.get(ANSWERED):
            return
        route = self._scope.get("path_template") or NO_ROUTE
        caller, actor = state.get(CALLER), state.get(ACTOR)
        by: dict[str, str] = {} if actor is None else {"actor": actor}
        if isinstance(caller, Caller):
            by = {
                "tenant": str(caller.tenant_id),
                "app": str(caller.app_id),
                "key": str(caller.api_key_id),
            }
        if GENERATION in state:
            by["page"] = f"{PAGE}{state[GENERATION]}"
        write = log.debug if route.startswith(PROBES) else log.info
        write(
            "request_answered",
            method=self._scope["method"],
            route=route,
            status=self._status,
            code=state.get(ERROR_CODE) or (None if self._complete else GONE),
            ms=round(self.took_ms, 1),
            received=self._received,
            sent=self._sent,
            **by,
        )
