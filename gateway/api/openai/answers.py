"""Responds with a request's answers, in full or as a stream, in the endpoint's format."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Generic, TypeVar

from litestar import Request, Response
from litestar.response import Stream
from msgspec import UNSET, Struct

from gateway.api.openai.parameters import ignored_header
from gateway.api.openai.sampling_schema import SamplingRequest, Usage, created
from gateway.api.openai.streams import event_stream
from gateway.api.openai.timeouts import ClientTimeouts
from gateway.errors import ClientGone
from gateway.generation.answer import full_answer, stream_pieces
from gateway.generation.request_state import Piece, RequestState
from gateway.generation.service import GenerationService

Body = TypeVar("Body")


class AnswerFormat(Struct, Generic[Body], frozen=True):
    """How one endpoint formats its answers.

    `body` builds a full answer, `event` an event of a stream: both take `choices`, `usage` and the
    fields common to all answers. `choice` builds a choice of a body. `part` builds a choice of an
    event: a piece, or the choice's end if None. `opening` precedes a choice's first piece.
    """

    prefix: str  # of an answer's id
    body: Callable[..., Body]
    event: Callable[..., object]
    choice: Callable[[int, RequestState, Piece], object]
    part: Callable[[RequestState, Piece | None], object]
    opening: Callable[[RequestState], object] | None = None


async def respond(
    form: AnswerFormat[Body],
    states: Sequence[RequestState],
    service: GenerationService,
    data: SamplingRequest,
    request: Request[Any, Any, Any],
    timeouts: ClientTimeouts,
) -> Response[Body] | Stream:
    """A stream that is open from the start, or the full answer once all choices have ended.

    ClientGone if the client disconnects first. In every case no choice outlives the response.
    """
    first = states[0]
    head = {
        "id": f"{form.prefix}{first.id.hex}",
        "created": created(first),
        "model": service.model,
        "system_fingerprint": service.fingerprint,
        "service_tier": data.applied_tier,
    }
    if data.stream:
        await asyncio.sleep(0)  # one turn of the loop: the first decision may assign a batch
        events = _events(form, head, states, service, with_usage=data.with_usage)
        return event_stream(events, _headers(first, request), timeouts.comment_interval_s)
    try:
        if not await _ended_before_disconnect(states, request):
            raise ClientGone("the client disconnected")
        choices = [
            form.choice(index, state, await full_answer(state))
            for index, state in enumerate(states)
        ]
    finally:
        cancel_all(states, service)
    body = form.body(choices=choices, usage=Usage.of(*states), **head)
    return Response(body, headers=_headers(first, request))


def cancel_all(states: Sequence[RequestState], service: GenerationService) -> None:
    """Cancel the choices that have not ended: they have no reader."""
    for state in states:
        service.cancel(state)


def _headers(state: RequestState, request: Request[Any, Any, Any]) -> dict[str, str]:
    """Headers: the predicted length in tokens, the batch if the request has started, and the
    fields of the request that were ignored.
    """
    batch = {"x-lmaas-batch": state.trace.batch} if state.trace.batch else {}
    predicted = {"x-lmaas-predicted-tokens": str(round(state.prediction.median))}
    return {**predicted, **batch, **ignored_header(request)}


async def _ended_before_disconnect(
    states: Sequence[RequestState], request: Request[Any, Any, Any]
) -> bool:
    """Whether all choices ended before the client disconnected."""
    ended = asyncio.gather(*(state.wait_for_end() for state in states))
    gone = asyncio.ensure_future(request.receive())  # after the body, only a disconnect follows
    try:
        await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)
        return all(state.done for state in states)
    finally:
        ended.cancel()
        gone.cancel()
        await asyncio.gather(ended, gone, return_exceptions=True)


async def _events(
    form: AnswerFormat[Body],
    head: dict[str, Any],
    states: Sequence[RequestState],
    service: GenerationService,
    *,
    with_usage: bool,
) -> AsyncGenerator[object, None]:
    """Yield opening, pieces and end of each choice, then the usage. Raises a choice's error.

    The opening leaves with the first piece: clients take the first event for the first token.
    Closing the generator cancels the choices that have not ended.
    """
    event = partial(form.event, **head, usage=None if with_usage else UNSET)
    unopened = set(states) if form.opening else set()
    try:
        async with aclosing(stream_pieces(states)) as grown:
            async for state, piece in grown:
                if form.opening and state in unopened:
                    unopened.remove(state)
                    yield event(choices=[form.opening(state)])
                yield event(choices=[form.part(state, piece)])
        if with_usage:
            yield event(choices=[], usage=Usage.of(*states))
    finally:
        cancel_all(states, service)
