"""The HTTP server: parses calls, forwards them, and encodes the answers."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qs

import msgspec
import structlog

from engine.errors import MalformedCall, OversizedCall, RejectedCall, UnknownRoute
from engine.protocol import EngineError, EngineInfo, Submission
from engine.service.events import EventReader
from engine.service.sessions import Sessions

Scope: TypeAlias = dict[str, Any]
Message: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

MAX_BODY_BYTES: Final = 64 * 2**20
MAX_NUMBER_DIGITS: Final = 18

log = structlog.get_logger()
_encoder = msgspec.json.Encoder()
_submission = msgspec.json.Decoder(Submission)


class Server:
    """The ASGI application on the engine's socket."""

    def __init__(
        self,
        info: EngineInfo,
        sessions: Sessions,
        stats: Callable[[], dict[str, Any]],
        audit: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._info = info
        self._sessions = sessions
        self._stats = stats
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call; a RejectedCall becomes an EngineError with its status."""
        try:
            await self._route(scope, receive, send)
        except RejectedCall as error:
            await _answer(send, EngineError(error=str(error)), error.status)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["method"], scope["path"]:
            case "GET", "/info":
                await _answer(send, self._info)
            case "GET", "/health":
                await _answer(send, {"status": "ok", "epoch": self._info.epoch})
            case "GET", "/stats":
                await _answer(send, self._stats())
            case "GET", "/audit":
                await _answer(send, {"wrong": await self._audit()})
            case "POST", "/submit":
                submission = _parse(await _body(receive))
                await _answer(send, self._sessions.submit(submission))
            case "GET", "/events":
                session, after = _parse_query(scope["query_string"])
                await self._stream(self._sessions.open(session, after), receive, send)
            case method, path:
                raise UnknownRoute(
                    f"no {method} {path}; there are GET /info, /events, /stats, /audit, /health "
                    "and POST /submit"
                )

    async def _stream(self, reader: EventReader, receive: Receive, send: Send) -> None:
        """Send a reader's lines until it ends or the client disconnects."""
        watch = asyncio.create_task(_close_on_disconnect(reader, receive))
        try:
            await _begin(send, 200, (b"content-type", b"application/x-ndjson"))
            async for line in reader.lines():
                await send({"type": "http.response.body", "body": line, "more_body": True})
            await send({"type": "http.response.body"})
        finally:
            watch.cancel()
            self._sessions.closed(reader)


async def _close_on_disconnect(reader: EventReader, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    reader.close()


async def _begin(send: Send, status: int, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _answer(send: Send, body: object, status: int = 200) -> None:
    encoded = _encoder.encode(body)
    length = (b"content-length", str(len(encoded)).encode())
    await _begin(send, status, (b"content-type", b"application/json"), length)
    await send({"type": "http.response.body", "body": encoded})


async def _body(receive: Receive) -> bytes:
    """The whole body of a call. OversizedCall beyond `MAX_BODY_BYTES`."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > MAX_BODY_BYTES:
            raise OversizedCall(f"the body is larger than {MAX_BODY_BYTES} bytes")
    return b"".join(parts)


def _parse(body: bytes) -> Submission:
    try:
        return _submission.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedCall(f"the body is no submission: {error}") from error


def _parse_query(query: bytes) -> tuple[str, int]:
    """The `session` and `after` of a query; `after` defaults to 0, all kept events."""
    values = {name: found[-1] for name, found in parse_qs(query.decode("latin-1")).items()}
    session, after = values.get("session", ""), values.get("after", "0")
    if not session:
        raise MalformedCall("session is missing from the query")
    if not (after.isascii() and after.isdecimal() and len(after) <= MAX_NUMBER_DIGITS):
        raise MalformedCall(f"after must be a number, not {after!r}")
    return session, int(after)
