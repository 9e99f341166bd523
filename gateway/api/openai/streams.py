"""Server-sent events over a connection that stays open while there are none."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import msgspec
from litestar.background_tasks import BackgroundTask
from litestar.response import Stream

from gateway.api.errors import error_body
from gateway.errors import LmaasError

PING_S: Final = 10.0
PING: Final = b": waiting\n\n"
DONE: Final = b"data: [DONE]\n\n"
HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}

_encode = msgspec.json.Encoder().encode


def streamed(events: AsyncGenerator[object, None], headers: dict[str, str]) -> Stream:
    """The events as a response; the generator is closed at their end or when the client leaves.

    An error after the start is an event of its own; clients raise it.
    """
    encoded = _kept_alive(_encoded(events))
    return Stream(
        encoded,
        background=BackgroundTask(_close, encoded),
        media_type="text/event-stream",
        headers=HEADERS | headers,
    )


async def _close(encoded: AsyncGenerator[bytes, None]) -> None:
    """End a stream whose client left while we wrote to it: nothing else does."""
    await encoded.aclose()


async def _encoded(events: AsyncGenerator[object, None]) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(events):
            async for event in events:
                yield _sse(event)
        yield DONE
    except LmaasError as error:
        yield _sse(error_body(error))


def _sse(message: object) -> bytes:
    return b"data: " + _encode(message) + b"\n\n"


async def _kept_alive(events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The events, with a comment line while there are none, so that no proxy gives up."""
    following: asyncio.Future[bytes] | None = None
    try:
        while True:
            following = following or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait((following,), timeout=PING_S)
            if not done:
                yield PING
                continue
            try:
                event = following.result()
            except StopAsyncIteration:
                return
            following = None
            yield event
    finally:
        if following:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await events.aclose()
