"""Adds `x-request-id` and the processing time to every response, errors included."""

import time

from litestar.datastructures import MutableScopeHeaders
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from models.base import new_id


class RequestId(ASGIMiddleware):
    """Sets a request's id in its response's headers and in its log events."""

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        """Pass the request on, and add the headers when its response starts."""
        began, name = time.monotonic(), f"req_{new_id().hex}"

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableScopeHeaders.from_message(message)
                headers["x-request-id"] = name
                headers["openai-processing-ms"] = f"{(time.monotonic() - began) * 1000:.0f}"
            await send(message)

        with bound_contextvars(request_id=name):
            await next_app(scope, receive, send_named)
