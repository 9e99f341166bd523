"""Responses to HTTP/1.0 clients, which know no chunks: the end of the connection ends the body."""

from uvicorn._types import (
    ASGI3Application,
    ASGIReceiveCallable,
    ASGISendCallable,
    ASGISendEvent,
    Scope,
)
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


def close_delimited(app: ASGI3Application, cycle: RequestResponseCycle) -> ASGI3Application:
    """The application, whose responses without a length are sent without chunks.

    uvicorn closes the connection after every HTTP/1.0 response.
    """

    async def respond(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        unsized = False

        async def send_plain(message: ASGISendEvent) -> None:
            nonlocal unsized
            if message["type"] == "http.response.start":
                names = (name.lower() for name, _ in message.get("headers", ()))
                unsized = b"content-length" not in names
                if unsized:
                    cycle.chunked_encoding = False
            elif unsized and message["type"] == "http.response.body":
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await app(scope, receive, send_plain)

    return respond
