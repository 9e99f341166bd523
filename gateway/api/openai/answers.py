"""A request's answers, whole or as a stream of events, in the form of the endpoint it came to."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Generic, TypeVar

from litestar import Request, Response
from litestar.response import Stream
from msgspec import UNSET, Struct

from gateway.api.openai.sampling_schema import SamplingRequest, Usage, created
from gateway.api.openai.streams import streamed
from gateway.errors import ClientGone
from gateway.generation.answer import pieces, whole
from gateway.generation.request_state import Piece, RequestState
from gateway.generation.service import GenerationService

Body = TypeVar("Body")


class Form(Struct, Generic[Body], frozen=True):
    """What the answers of one endpoint look like.

    `body` makes a whole answer, `event` one of a stream: both take `choices`, `usage` and what
    every answer carries. `choice` is one of a body. `part` is one of an event: a piece, or the end
    of a choice where there is none. `opening` comes before a choice's first piece.
    """

    prefix: str  # of an answer's id
    body: Callable[..., Body]
    event: Callable[..., object]
    choice: Callable[[int, RequestState, Piece], object]
    part: Callable[[RequestState, Piece | None], object]
    opening: Callable[[RequestState], object] | None = None


async def answered(
    form: Form[Body],
    lives: Sequence[RequestState],
    generations: GenerationService,
    data: SamplingRequest,
    request: Request[Any, Any, Any],
) -> Response[Body] | Stream:
    """A stream that stays open while the choices wait, or the whole answer once all have ended.

    ClientGone where the client leaves before; whatever happens, no choice outlives the answer.
    """
    first = lives[0]
    head = {
        "id": f"{form.prefix}{first.id.hex}",
        "created": created(first),
        "model": generations.model,
        "system_fingerprint": generations.fingerprint,
        "service_tier": data.applied_tier,
    }
    if data.stream:
        await asyncio.sleep(0)  # one turn of the loop: the first decision, which may give a batch
        events = _events(form, head, lives, generations, with_usage=data.with_usage)
        return streamed(events, _headers(first))
    try:
        if not await _ended_before_disconnect(lives, request):
            raise ClientGone("the client went away")
        choices = [form.choice(index, live, await whole(live)) for index, live in enumerate(lives)]
    finally:
        cancel_all(lives, generations)
    body = form.body(choices=choices, usage=Usage.of(*lives), **head)
    return Response(body, headers=_headers(first))


def cancel_all(lives: Sequence[RequestState], generations: GenerationService) -> None:
    """End the choices that have not ended: nothing reads them."""
    for live in lives:
        generations.cancel(live)


def _headers(live: RequestState) -> dict[str, str]:
    """The predicted length in tokens, and the batch of a request that has started."""
    batch = {"x-lmaas-batch": live.trace.batch} if live.trace.batch else {}
    return {"x-lmaas-predicted-tokens": str(round(live.prediction.median)), **batch}


async def _ended_before_disconnect(
    lives: Sequence[RequestState], request: Request[Any, Any, Any]
) -> bool:
    """Whether all choices ended while the client was still there."""
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
    form: Form[Body],
    head: dict[str, Any],
    lives: Sequence[RequestState],
    generations: GenerationService,
    *,
    with_usage: bool,
) -> AsyncGenerator[object, None]:
    """Opening, pieces and end of each choice, then the usage. Raises the error of a choice.

    Closing it cancels what has not ended.
    """
    event = partial(form.event, **head, usage=None if with_usage else UNSET)
    try:
        for live in lives:
            if form.opening is not None:
                yield event(choices=[form.opening(live)])
        async with aclosing(pieces(lives)) as grown:
            async for live, piece in grown:
                yield event(choices=[form.part(live, piece)])
        if with_usage:
            yield event(choices=[], usage=Usage.of(*lives))
    finally:
        cancel_all(lives, generations)
