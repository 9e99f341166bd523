"""`POST /v1/completions`: continues raw prompts; plain and streamed."""

import asyncio
from typing import Any, Final

from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.response import Stream
from msgspec.structs import replace

from gateway.api.openai.answers import AnswerFormat, cancel_all, respond
from gateway.api.openai.completion_schema import (
    Completion,
    CompletionRequest,
    TextChoice,
    TextLogprobs,
)
from gateway.api.openai.sampling_schema import end_of, piece_logprobs
from gateway.api.openai.timeouts import ClientTimeouts
from gateway.api.openapi import streamed
from gateway.generation.request import Ceiling, GenerationRequest
from gateway.generation.request_state import RequestState
from gateway.generation.service import STARTED_AT_ONCE, GenerationService
from gateway.generation.text.growing_answer import Piece
from gateway.tenancy.authentication import Caller


def _choice(index: int, state: RequestState, text: str) -> TextChoice:
    return TextChoice(text, state.finish_reason, index, **end_of(state))


def _parts(index: int, state: RequestState, piece: Piece | None) -> list[TextChoice]:
    if piece is None:
        return [TextChoice("", state.finish_reason, index, **end_of(state))]
    return [TextChoice(piece.text, None, index, piece_logprobs(state, piece, TextLogprobs.of))]


FORM: Final = AnswerFormat("cmpl-", Completion, Completion, _choice, _parts, TextLogprobs.of)


class CompletionsController(Controller):
    """Continues prompts."""

    path = "/completions"

    @post(
        status_code=200,
        summary="Continue prompts, in full or as a stream",
        responses=streamed(Completion, 404, 409),
    )
    async def complete(
        self,
        data: JSONBody[CompletionRequest],
        caller: NamedDependency[Caller],
        timeouts: NamedDependency[ClientTimeouts],
        ceiling: NamedDependency[Ceiling | None],
        service: NamedDependency[GenerationService],
        request: Request[Any, Any, Any],
    ) -> Response[Completion] | Stream:
        """The continuations of each prompt, in OpenAI's format."""
        service.check_model(data.model)
        timeouts = timeouts.with_metadata(data.metadata)
        asked = [replace(each, ceiling=ceiling) for each in data.to_requests(caller, timeouts)]
        states = await _start_all(asked, service)
        return await respond(FORM, states, service, data, request, timeouts)


async def _start_all(
    requests: list[GenerationRequest], service: GenerationService
) -> list[RequestState]:
    """Start all requests, or none: raises the first failure."""
    grew = asyncio.Event()  # one reader reads all
    states: list[RequestState] = []
    failures: list[BaseException] = []
    at_once = max(STARTED_AT_ONCE // requests[0].choices, 1)
    for begin in range(0, len(requests), at_once):
        starts = (service.start(each, grew) for each in requests[begin : begin + at_once])
        started = await asyncio.gather(*starts, return_exceptions=True)
        failures += [each for each in started if isinstance(each, BaseException)]
        states += [state for each in started if isinstance(each, list) for state in each]
        if failures:
            break
    if failures:
        cancel_all(states, service)
        raise failures[0]
    return states
