"""Answers as server-sent events, and clients that go away before they have one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final, Protocol

import msgspec
from litestar import Request
from litestar.background_tasks import BackgroundTask
from litestar.response import Stream

from gateway.api.errors import error_body
from gateway.errors import LmaasError
from gateway.generation.answer import pieces
from gateway.generation.live import LiveRequest
from gateway.generation.service import Generations

PING_S: Final = 10.0
PING: Final = b": waiting\n\n"
DONE: Final = b"data: [DONE]\n\n"
HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}

_encode = msgspec.json.Encoder().encode


class Chunks(Protocol):
    """The events of one kind of answer; None where that kind has no such event."""

    def opening(self) -> object | None:
        """Before the first piece."""

    def piece(self, text: str) -> object:
        """A piece of the answer."""

    def closing(self) -> object:
        """The end, with the finish reason."""

    def usage(self) -> object | None:
        """Tokens read and written, where they were asked for."""


def predicted(live: LiveRequest) -> dict[str, str]:
    """The header that tells the predicted length in tokens."""
    return {"x-lmaas-predicted-tokens": str(round(live.prediction.median))}


def batched(live: LiveRequest) -> dict[str, str]:
    """The header that names the batch an answer ran in; none where it did not run."""
    return {"x-lmaas-batch": live.dispatch.batch} if live.dispatch else {}


def streamed(live: LiveRequest, generations: Generations, chunks: Chunks) -> Stream:
    """The answer as a stream of events that stays open while the request waits."""
    events = _kept_alive(_events(live, generations, chunks))
    return Stream(
        events,
        background=BackgroundTask(_close, events),
        media_type="text/event-stream",
        headers=HEADERS | predicted(live),
    )


async def _close(events: AsyncGenerator[bytes, None]) -> None:
    """Ends a stream whose client left while we wrote to it: nobody else does."""
    await events.aclose()


async def ended_before_disconnect(
    lives: Sequence[LiveRequest], request: Request[Any, Any, Any]
) -> bool:
    """Whether all answers ended while the client was still there."""
    ended = asyncio.gather(*(live.ended() for live in lives))
    gone = asyncio.ensure_future(request.receive())  # the body is read: only a disconnect is left
    try:
        await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)
        return all(live.done for live in lives)
    finally:
        ended.cancel()
        gone.cancel()
        await asyncio.gather(ended, gone, return_exceptions=True)


async def _events(
    live: LiveRequest, generations: Generations, chunks: Chunks
) -> AsyncGenerator[bytes, None]:
    """Opening, pieces, end, usage, done.

    An error after the start is an event of its own; clients raise it. A client that goes away
    closes this generator, which frees the sequence.
    """
    try:
        if (opening := chunks.opening()) is not None:
            yield _sse(opening)
        async with aclosing(pieces(live)) as texts:
            async for text in texts:
                yield _sse(chunks.piece(text))
        yield _sse(chunks.closing())
        if (usage := chunks.usage()) is not None:
            yield _sse(usage)
        yield DONE
    except LmaasError as error:
        yield _sse(error_body(error))
    finally:
        generations.cancel(live)


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
