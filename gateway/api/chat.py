"""`POST /v1/chat/completions`: plain and streamed."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final

import msgspec
from litestar import Controller, Request, Response, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.response import Stream

from gateway.api.chat_schema import (
    AnswerMessage,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    Choice,
    ChunkChoice,
    Delta,
    Usage,
)
from gateway.api.errors import error_body
from gateway.errors import LmaasError
from gateway.generation.answer import pieces, whole
from gateway.generation.live import LiveRequest
from gateway.generation.service import Generations
from gateway.tenancy.authentication import Caller

PING_S: Final = 10.0
PING: Final = b": waiting\n\n"
DONE: Final = b"data: [DONE]\n\n"
CLIENT_CLOSED_REQUEST: Final = 499

_encode = msgspec.json.Encoder().encode


class ChatController(Controller):
    """Answers conversations."""

    path = "/chat/completions"

    @post(status_code=200, summary="Answer a conversation, whole or as a stream")
    async def complete(
        self,
        data: JSONBody[ChatCompletionRequest],
        caller: NamedDependency[Caller],
        generations: NamedDependency[Generations],
        request: Request[None, None, State],
    ) -> Response[bytes] | Stream:
        """One answer of the served model, in OpenAI's form."""
        generations.check_model(data.model)
        ask = data.ask(caller)
        live = await generations.start(ask)
        headers = {"x-lmaas-predicted-tokens": str(round(live.prediction.median))}
        if ask.streamed:
            with_usage = bool(data.stream_options and data.stream_options.include_usage)
            return Stream(
                _kept_alive(_events(live, generations, with_usage=with_usage)),
                media_type="text/event-stream",
                headers=headers | {"cache-control": "no-cache", "x-accel-buffering": "no"},
            )
        if not await _ended_before_disconnect(live, request):
            generations.cancel(live)
            return Response(b"", status_code=CLIENT_CLOSED_REQUEST)
        completion = _completion(live, generations, await whole(live, generations.decoder()))
        return Response(_encode(completion), media_type="application/json", headers=headers)


async def _ended_before_disconnect(live: LiveRequest, request: Request[None, None, State]) -> bool:
    """Whether the answer ended while the client was still there."""
    ended = asyncio.ensure_future(live.ended())
    gone = asyncio.ensure_future(request.receive())  # the body is read: only a disconnect is left
    try:
        await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)
        return live.done
    finally:
        ended.cancel()
        gone.cancel()


def _name(live: LiveRequest) -> str:
    return f"chatcmpl-{live.id.hex}"


def _usage(live: LiveRequest) -> Usage:
    read, written = len(live.prompt), len(live.tokens)
    return Usage(read, written, read + written)


def _completion(live: LiveRequest, generations: Generations, text: str) -> ChatCompletion:
    assert live.finish_reason is not None
    return ChatCompletion(
        id=_name(live),
        created=int(live.arrived_at.timestamp()),
        model=generations.model,
        choices=[Choice(AnswerMessage(text), live.finish_reason)],
        usage=_usage(live),
        system_fingerprint=generations.fingerprint,
    )


async def _events(
    live: LiveRequest, generations: Generations, *, with_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The stream's events: role, pieces, finish, usage where asked for, done.

    An error after the start is an event of its own; clients raise it. A client that goes away
    closes this generator, which frees the sequence.
    """
    base = ChatCompletionChunk(
        id=_name(live),
        created=int(live.arrived_at.timestamp()),
        model=generations.model,
        choices=[],
        system_fingerprint=generations.fingerprint,
        usage=None if with_usage else msgspec.UNSET,
    )

    def event(choice: ChunkChoice) -> bytes:
        return _sse(msgspec.structs.replace(base, choices=[choice]))

    try:
        yield event(ChunkChoice(Delta(role="assistant", content="")))
        async with aclosing(pieces(live, generations.decoder())) as texts:
            async for text in texts:
                yield event(ChunkChoice(Delta(content=text)))
        yield event(ChunkChoice(Delta(), finish_reason=live.finish_reason))
        if with_usage:
            yield _sse(msgspec.structs.replace(base, usage=_usage(live)))
        yield DONE
    except LmaasError as error:
        yield _sse(error_body(error))
    finally:
        generations.cancel(live)


def _sse(message: object) -> bytes:
    return b"data: " + _encode(message) + b"\n\n"


async def _kept_alive(events: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
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
        if following and not following.done():
            following.cancel()
            await asyncio.wait((following,))
        await events.aclose()
