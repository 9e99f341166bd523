"""Every answer, errors too, carries `x-request-id` and how long it took to begin."""

import time

from litestar.datastructures import MutableScopeHeaders
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from models.base import new_id


class RequestId(ASGIMiddleware):
    """Names a request in its answer's headers and in every log event about it."""

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Pass the request on, and add the headers when its answer begins."""
        began, name = time.monotonic(), f"req_{new_id().hex}"

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableScopeHeaders.from_message(message)
                headers["x-request-id"] = name
                headers["openai-processing-ms"] = f"{(time.monotonic() - began) * 1000:.0f}"
            await send(message)

        with bound_contextvars(request_id=name):
            await next_app(scope, receive, send_named)
