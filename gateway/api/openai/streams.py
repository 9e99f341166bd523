"""Server-sent events, with comments that keep an idle connection open."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

import msgspec
from litestar.background_tasks import BackgroundTask
from litestar.response import Stream

from gateway.api.errors import error_body
from gateway.errors import LmaasError

PING: Final = b": waiting\n\n"
DONE: Final = b"data: [DONE]\n\n"
# Line breaks of Unicode that JSON leaves as they are: clients exist that split lines at them.
LINE_BREAKS: Final = {
    each.encode(): f"\\u{ord(each):04x}".encode() for each in ("\x85", "\u2028", "\u2029")
}
HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}

_encode = msgspec.json.Encoder().encode


def event_stream(
    events: AsyncGenerator[object, None],
    headers: dict[str, str],
    comment_interval_s: float,
    failed: Callable[[LmaasError], None] = lambda _: None,
) -> Stream:
    """The events as a response; the generator is closed at its end or when the client disconnects.

    A comment is sent after every `comment_interval_s` without an event. An error after the start is
    sent as an event, which clients raise; `failed` is called with it.
    """
    encoded = _kept_alive(_encoded(events, failed), comment_interval_s)
    return Stream(
        encoded,
        background=BackgroundTask(_close, encoded),
        media_type="text/event-stream",
        headers=HEADERS | headers,
    )


async def _close(encoded: AsyncGenerator[bytes, None]) -> None:
    """Close a stream whose client disconnected during a write; nothing else does."""
    await encoded.aclose()


async def _encoded(
    events: AsyncGenerator[object, None], failed: Callable[[LmaasError], None]
) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(events):
            async for event in events:
                yield _sse(event)
        yield DONE
    except LmaasError as error:
        failed(error)
        yield _sse(error_body(error))


def _sse(message: object) -> bytes:
    """One event: its data is a single line, however a client splits lines."""
    data = _encode(message)
    for character, escaped in LINE_BREAKS.items():
        data = data.replace(character, escaped)
    return b"data: " + data + b"\n\n"


async def _kept_alive(
    events: AsyncGenerator[bytes, None], interval_s: float
) -> AsyncGenerator[bytes, None]:
    """The events, with a comment line while there are none: no client or proxy times out."""
    following: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            following = following or asyncio.ensure_future(anext(events, None))
            done, _ = await asyncio.wait((following,), timeout=interval_s)
            if not done:
                yield PING
                continue
            event, following = following.result(), None
            if event is None:
                return
            yield event
    finally:
        if following:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await events.aclose()
