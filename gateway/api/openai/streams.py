"""Server-sent events, with comments that keep an idle connection open."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

import msgspec
from litestar.background_tasks import BackgroundTask
from litestar.response import Stream
from msgspec import Struct

from gateway.api.errors import error_body
from gateway.errors import LmaasError

PING: Final = "waiting"
QUEUED_INTERVAL_S: Final = 2.0  # between the comments of a queued request, at most
DONE: Final = b"data: [DONE]\n\n"
# Line breaks of Unicode that JSON leaves as they are: clients exist that split lines at them.
LINE_BREAKS: Final = {
    each.encode(): f"\\u{ord(each):04x}".encode() for each in ("\x85", "\u2028", "\u2029")
}
HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}

_encode = msgspec.json.Encoder().encode


class IdleComments(Struct, frozen=True):
    """What a stream without events says: a comment after every `interval_s`.

    `queued` gives its place in the queue while it waits there, more often; None afterwards.
    `placed` gives what its headers could not say yet, once that is known: a comment before the next
    event.
    """

    queued: Callable[[], str | None]
    interval_s: float
    placed: Callable[[], str | None] | None = None

    @property
    def next_s(self) -> float:
        """Seconds until the next comment."""
        waits = self.queued() is not None
        return min(self.interval_s, QUEUED_INTERVAL_S) if waits else self.interval_s

    @property
    def text(self) -> bytes:
        """The comment that is due."""
        return f": {self.queued() or PING}\n\n".encode()


def event_stream(
    events: AsyncGenerator[object, None],
    headers: dict[str, str],
    comments: IdleComments,
    failed: Callable[[LmaasError], None] = lambda _: None,
) -> Stream:
    """The events as a response; the generator is closed at its end or when the client disconnects.

    While there are no events, `comments` are sent. An error after the start is
    sent as an event, which clients raise; `failed` is called with it.
    """
    encoded = _kept_alive(_encoded(events, failed), comments)
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
    events: AsyncGenerator[bytes, None], comments: IdleComments
) -> AsyncGenerator[bytes, None]:
    """The events, with a comment line while there are none: no client or proxy times out."""
    following: asyncio.Future[bytes | None] | None = None
    placed = comments.placed
    try:
        while True:
            following = following or asyncio.ensure_future(anext(events, None))
            done, _ = await asyncio.wait((following,), timeout=comments.next_s)
            if not done:
                yield comments.text
                continue
            event, following = following.result(), None
            if placed is not None and (where := placed()) is not None:
                placed = None
                yield f": {where}\n\n".encode()
            if event is None:
                return
            yield event
    finally:
        if following:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await events.aclose()
