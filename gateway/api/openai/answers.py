"""Responds with a request's answers, in full or as a stream, in the endpoint's format."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from itertools import groupby
from typing import Any, Final, Generic, TypeVar

import msgspec
from litestar import MediaType, Request, Response
from litestar.response import Stream
from msgspec import UNSET, Raw, Struct, UnsetType, structs

from gateway.api.http_metrics import ERROR_CODE, GENERATION
from gateway.api.openai.parameters import ignored_header
from gateway.api.openai.sampling_schema import SamplingRequest, Usage, created
from gateway.api.openai.streams import IdleComments, event_stream
from gateway.api.openai.timeouts import ClientTimeouts
from gateway.api.usage.rate_limits import LIMIT, hold_headers
from gateway.errors import ClientGone
from gateway.generation.answer import stream_pieces, work_us_of
from gateway.generation.request_state import RequestState
from gateway.generation.service import GenerationService
from gateway.generation.text.growing_answer import Piece

Body = TypeVar("Body")

MEMORY: Final = "x-lmaas-kv"
MEMORY_REASON: Final = "x-lmaas-kv-reason"
UNDECIDED: Final = "undecided"
LARGE_BODY: Final = 1 << 20  # bytes; a larger one is sent in pieces
BODY_PIECE: Final = 256 << 10
EXPECTED_WAIT: Final = "x-lmaas-expected-wait-ms"
EXPECTED_BAND: Final = "x-lmaas-expected-wait-band-ms"


class AnswerFormat(Struct, Generic[Body], frozen=True):
    """How one endpoint formats its answers.

    `body` builds a full answer, `event` an event of a stream: both take `choices`, `usage` and the
    fields common to all answers. `choice` builds a choice of a body, with its index. `parts` builds
    choices of events: of a piece, or of the choice's end if None. `opening` precedes a choice's
    first piece. `logprobs` builds the log probabilities of a piece: a struct of lists.
    """

    prefix: str  # of an answer's id
    body: Callable[..., Body]
    event: Callable[..., object]
    choice: Callable[[int, RequestState, str], Struct]
    parts: Callable[[int, RequestState, Piece | None], Iterable[object]]
    logprobs: Callable[[Piece], Struct]
    opening: Callable[[int, RequestState], object] | None = None


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
    request.state[GENERATION] = first.id
    head = {
        "id": f"{form.prefix}{first.id.hex}",
        "created": created(first),
        "model": service.model,
        "system_fingerprint": service.fingerprint,
        "service_tier": data.shown_tier(first.request.service_tier),
    }
    if data.stream:
        await asyncio.sleep(0)  # one turn of the loop: the first decision may assign a batch
        events = _events(form, head, states, service, data)
        return event_stream(
            events,
            _headers(first, states, request),
            IdleComments(
                partial(service.comment, first),
                timeouts.comment_interval_s,
                partial(_placed, states) if _undecided(states) else None,
            ),
            lambda error: request.state.update({ERROR_CODE: error.code}),
        )
    try:
        if not await _ended_before_disconnect(states, request):
            raise ClientGone("the client disconnected")
        choices = [
            await _encoded(form, index, state, service)
            for index, state in enumerate(best_of(states))
        ]
    finally:
        cancel_all(states, service)
    build = partial(form.body, usage=Usage.of(*states), **head)
    headers = _headers(_limited(states), states, request)
    if sum(map(len, choices)) <= LARGE_BODY:
        return Response(build(choices=list(map(Raw, choices))), headers=headers)
    return Stream(_in_pieces(build, choices), headers=headers, media_type=MediaType.JSON)


async def _encoded(
    form: AnswerFormat[Body], index: int, state: RequestState, service: GenerationService
) -> bytes:
    """A choice that has ended without an error, as JSON."""
    return await service.workers.finish(
        state.tenant, work_us_of(state), partial(encode_choice, form, index, state)
    )


def encode_choice(form: AnswerFormat[Body], index: int, state: RequestState) -> bytes:
    """A choice as JSON. Runs in any thread, and encodes no more than a piece at a time."""
    texts: list[str] = []
    scored: dict[str, list[bytes]] = {}
    for piece in state.read_parts(ended=True):
        texts.append(piece.text)
        if state.request.logprobs is not None:
            for name, value in structs.asdict(form.logprobs(piece)).items():
                scored.setdefault(name, []).append(msgspec.json.encode(value))
    fields = structs.asdict(form.choice(index, state, "".join(texts)))
    choice = {name: value for name, value in fields.items() if value is not UNSET}
    if scored:
        choice["logprobs"] = {name: _joined(parts) for name, parts in scored.items()}
    return msgspec.json.encode(choice)


def best_of(states: Sequence[RequestState]) -> list[RequestState]:
    """The choices to return: of each request the best ones, if it wants no more. Raises an error.

    The best have the highest mean log probability.
    """
    for state in states:
        if state.error:
            raise state.error
    returned = []
    for _, group in groupby(states, key=lambda state: id(state.request)):
        choices = list(group)
        kept = choices[0].request.kept
        if kept is not None:
            choices = sorted(choices, key=lambda state: -state.mean_logprob)[:kept]
        returned += choices
    return returned


def _joined(parts: list[bytes]) -> Raw:
    """Lists as one list; of other values the first."""
    if not parts[0].startswith(b"["):
        return Raw(parts[0])
    return Raw(b"[" + b",".join(part[1:-1] for part in parts if part != b"[]") + b"]")


async def _in_pieces(
    build: Callable[..., object], choices: Sequence[bytes]
) -> AsyncGenerator[bytes, None]:
    """A large body in pieces: copying and sending it at once would hold up other requests."""
    mark = f'"{secrets.token_hex(16)}"'.encode()
    head, _, tail = msgspec.json.encode(build(choices=[Raw(mark)])).partition(mark)
    yield head
    for index, choice in enumerate(choices):
        yield b"," if index else b""
        for start in range(0, len(choice), BODY_PIECE):
            yield choice[start : start + BODY_PIECE]
            await asyncio.sleep(0)
    yield tail


def cancel_all(states: Sequence[RequestState], service: GenerationService) -> None:
    """Cancel the choices that have not ended: they have no reader."""
    for state in states:
        service.cancel(state)


def _headers(
    state: RequestState, states: Sequence[RequestState], request: Request[Any, Any, Any]
) -> dict[str, str]:
    """Headers of an answer with these choices.

    Of one of them: the newest predicted length in tokens and its source, the wait that was expected
    at the request's arrival, the batch if it has started, and how its limits stand. Of all: where
    their keys and values are if there was a choice, and the request's fields that were ignored.
    """
    batch = {"x-lmaas-batch": state.trace.batch} if state.trace.batch else {}
    predicted = {
        "x-lmaas-predicted-tokens": str(round(state.prediction.median)),
        "x-lmaas-prediction-source": state.prediction.label,
    }
    start_s = state.trace.expected_start_s
    wait = {} if start_s is None else {EXPECTED_WAIT: str(round(start_s * 1000))}
    if state.expected_band_s is not None:
        wait[EXPECTED_BAND] = ", ".join(str(round(each * 1000)) for each in state.expected_band_s)
    ended = {LIMIT: state.limited_by} if state.limited_by else {}
    limits = {**hold_headers(state.hold), **ended}
    memory = _memory_headers(states)
    return {**predicted, **wait, **batch, **memory, **limits, **ignored_header(request)}


def _memory_headers(states: Sequence[RequestState]) -> dict[str, str]:
    """Where keys and values are, if there was a choice, and why if any are in host memory."""
    first = states[0]
    if first.request.memory == "device":
        return {}
    shown = next((state for state in states if state.on_host), first)
    if shown.host_reason is not None:
        return {MEMORY: shown.memory, MEMORY_REASON: shown.host_reason}
    return {MEMORY: UNDECIDED if _undecided(states) else shown.memory}


def _undecided(states: Sequence[RequestState]) -> bool:
    """Whether any of the choices may yet start on the device or in host memory."""
    return any(state.undecided for state in states)


def _placed(states: Sequence[RequestState]) -> str | None:
    """The comment of a stream that says where its choices run; None until all have started."""
    if _undecided(states):
        return None
    return ", ".join(f"{name}: {value}" for name, value in _memory_headers(states).items())


def _limited(states: Sequence[RequestState]) -> RequestState:
    """The first choice that a limit ended; the first one if none did."""
    return next((state for state in states if state.limited_by), states[0])


async def _end_of_all(states: Sequence[RequestState]) -> None:
    """Wait for one after another: each growth then wakes one task, not one for each choice."""
    for state in states:
        await state.wait_for_end()


async def _ended_before_disconnect(
    states: Sequence[RequestState], request: Request[Any, Any, Any]
) -> bool:
    """Whether all choices ended before the client disconnected."""
    ended = asyncio.ensure_future(_end_of_all(states))
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
    data: SamplingRequest,
) -> AsyncGenerator[object, None]:
    """Yield opening, pieces and end of each choice, then the usage. Raises a choice's error.

    The opening leaves with the first piece: clients take the first event for the first token.
    Closing the generator cancels the choices that have not ended.
    """
    indices = {state: index for index, state in enumerate(states)}
    unopened = set(states) if form.opening else set()

    def event(*choices: object) -> object:
        usage: Usage | UnsetType | None = None if data.with_usage else UNSET
        if data.usage_in_every_event or not choices:
            usage = Usage.of(*states)
        return form.event(**head, choices=choices, usage=usage)

    try:
        async with aclosing(stream_pieces(states)) as grown:
            async for state, piece in grown:
                index = indices[state]
                if form.opening and state in unopened:
                    unopened.remove(state)
                    yield event(form.opening(index, state))
                for part in form.parts(index, state, piece):
                    yield event(part)
        if data.with_usage:
            yield event()
    finally:
        cancel_all(states, service)
        for state in states:
            if state.calls is not None:
                state.calls.close()
