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
from gateway.generation.live import LiveRequest, Piece
from gateway.generation.service import Generations

PING_S: Final = 10.0
PING: Final = b": waiting\n\n"
DONE: Final = b"data: [DONE]\n\n"
HEADERS: Final = {"cache-control": "no-cache", "x-accel-buffering": "no"}

_encode = msgspec.json.Encoder().encode


class Chunks(Protocol):
    """The events of one kind of answer; None where that kind has no such event."""

    def opening(self, live: LiveRequest) -> object | None:
        """Before a choice's first piece."""

    def piece(self, live: LiveRequest, piece: Piece) -> object:
        """A piece of a choice."""

    def closing(self, live: LiveRequest) -> object:
        """The end of a choice, with the finish reason."""

    def usage(self) -> object | None:
        """Tokens read and written, where they were asked for."""


def predicted(live: LiveRequest) -> dict[str, str]:
    """The header that tells the predicted length in tokens."""
    return {"x-lmaas-predicted-tokens": str(round(live.prediction.median))}


def batched(live: LiveRequest) -> dict[str, str]:
    """The header that names the batch an answer ran in; none where it did not run."""
    return {"x-lmaas-batch": live.trace.batch} if live.trace.batch else {}


def streamed(lives: Sequence[LiveRequest], generations: Generations, chunks: Chunks) -> Stream:
    """A request's choices as a stream of events that stays open while they wait."""
    events = _kept_alive(_events(lives, generations, chunks))
    return Stream(
        events,
        background=BackgroundTask(_close, events),
        media_type="text/event-stream",
        headers=HEADERS | predicted(lives[0]),
    )


def cancel_all(lives: Sequence[LiveRequest], generations: Generations) -> None:
    """End the choices that have not ended: nobody reads them."""
    for live in lives:
        generations.cancel(live)


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
    lives: Sequence[LiveRequest], generations: Generations, chunks: Chunks
) -> AsyncGenerator[bytes, None]:
    """Opening, pieces and end of each choice, usage, done.

    An error after the start is an event of its own; clients raise it. A client that goes away
    closes this generator, which frees the sequences.
    """
    try:
        for live in lives:
            if (opening := chunks.opening(live)) is not None:
                yield _sse(opening)
        async with aclosing(pieces(lives)) as parts:
            async for live, piece in parts:
                yield _sse(chunks.closing(live) if piece is None else chunks.piece(live, piece))
        if (usage := chunks.usage()) is not None:
            yield _sse(usage)
        yield DONE
    except LmaasError as error:
        yield _sse(error_body(error))
    finally:
        cancel_all(lives, generations)


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
