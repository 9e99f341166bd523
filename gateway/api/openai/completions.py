"""`POST /v1/completions`: a prompt as it stands, continued; plain and streamed."""

import asyncio
from typing import Any, Final

from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.response import Stream

from gateway.api.openai.answers import Form, answered, cancel_all
from gateway.api.openai.completion_schema import (
    Completion,
    CompletionRequest,
    TextChoice,
    TextLogprobs,
)
from gateway.api.openai.sampling_schema import scored
from gateway.api.openai.timeouts import ClientTimeouts
from gateway.generation.request import GenerationRequest
from gateway.generation.request_state import Piece, RequestState
from gateway.generation.service import GenerationService
from gateway.tenancy.authentication import Caller


def _choice(index: int, live: RequestState, answer: Piece) -> TextChoice:
    logprobs = scored(live, answer, TextLogprobs.of)
    return TextChoice(answer.text, live.finish_reason, index, logprobs)


def _part(live: RequestState, piece: Piece | None) -> TextChoice:
    if piece is None:
        return TextChoice("", live.finish_reason, live.choice)
    return TextChoice(piece.text, None, live.choice, scored(live, piece, TextLogprobs.of))


FORM: Final = Form("cmpl-", Completion, Completion, _choice, _part)


class CompletionsController(Controller):
    """Continues prompts."""

    path = "/completions"

    @post(status_code=200, summary="Continue prompts, whole or as a stream")
    async def complete(
        self,
        data: JSONBody[CompletionRequest],
        caller: NamedDependency[Caller],
        patience: NamedDependency[ClientTimeouts],
        generations: NamedDependency[GenerationService],
        request: Request[Any, Any, Any],
    ) -> Response[Completion] | Stream:
        """The continuations of each prompt, in OpenAI's form; one prompt where it streams."""
        generations.check_model(data.model)
        lives = await _start_all(data.asks(caller, patience), generations)
        return await answered(FORM, lives, generations, data, request)


async def _start_all(
    asks: list[GenerationRequest], generations: GenerationService
) -> list[RequestState]:
    """Start all or none."""
    started = await asyncio.gather(*map(generations.start, asks), return_exceptions=True)
    failures = [each for each in started if isinstance(each, BaseException)]
    lives = [live for each in started if isinstance(each, list) for live in each]
    if failures:
        cancel_all(lives, generations)
        raise failures[0]
    return lives
