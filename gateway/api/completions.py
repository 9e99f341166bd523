"""`POST /v1/completions`: a prompt as it stands, continued; plain and streamed."""

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.response import Stream

from gateway.api.completion_schema import (
    Completion,
    CompletionRequest,
    TextChoice,
    TextLogprobs,
)
from gateway.api.patience import Patience
from gateway.api.sampling_schema import Usage, created
from gateway.api.streams import cancel_all, ended_before_disconnect, predicted, streamed
from gateway.errors import ClientGone
from gateway.generation.answer import whole
from gateway.generation.ask import Ask
from gateway.generation.live import LiveRequest, Piece
from gateway.generation.service import Generations
from gateway.tenancy.authentication import Caller


class CompletionsController(Controller):
    """Continues prompts."""

    path = "/completions"

    @post(status_code=200, summary="Continue prompts, whole or as a stream")
    async def complete(
        self,
        data: JSONBody[CompletionRequest],
        caller: NamedDependency[Caller],
        patience: NamedDependency[Patience],
        generations: NamedDependency[Generations],
        request: Request[Any, Any, Any],
    ) -> Response[Completion] | Stream:
        """The continuations of each prompt, in OpenAI's form; one prompt where it streams."""
        generations.check_model(data.model)
        lives = await _start_all(data.asks(caller, patience), generations)
        if data.stream:
            return streamed(lives, generations, _Chunks(lives, generations, data))
        try:
            if not await ended_before_disconnect(lives, request):
                raise ClientGone("the client went away")
            choices = [await _choice(live, index) for index, live in enumerate(lives)]
        finally:
            cancel_all(lives, generations)
        completion = msgspec.structs.replace(
            _base(lives[0], generations, data), choices=choices, usage=Usage.of(*lives)
        )
        return Response(completion, headers=predicted(lives[0]))


async def _start_all(asks: list[Ask], generations: Generations) -> list[LiveRequest]:
    """Start all or none."""
    started = await asyncio.gather(*map(generations.start, asks), return_exceptions=True)
    failures = [each for each in started if isinstance(each, BaseException)]
    lives = [live for each in started if isinstance(each, list) for live in each]
    if failures:
        cancel_all(lives, generations)
        raise failures[0]
    return lives


async def _choice(live: LiveRequest, index: int) -> TextChoice:
    answer = await whole(live)
    return TextChoice(answer.text, live.finish_reason, index, _scored(live, answer))


def _scored(live: LiveRequest, piece: Piece) -> TextLogprobs | None:
    return None if live.ask.sampling.logprobs is None else TextLogprobs.of(piece)


def _base(live: LiveRequest, generations: Generations, data: CompletionRequest) -> Completion:
    return Completion(
        id=_name(live.id),
        created=created(live),
        model=generations.model,
        choices=[],
        system_fingerprint=generations.fingerprint,
        service_tier=data.applied_tier,
    )


def _name(request_id: UUID) -> str:
    return f"cmpl-{request_id.hex}"


class _Chunks:
    """The events of a prompt's streamed continuations."""

    def __init__(
        self, lives: Sequence[LiveRequest], generations: Generations, data: CompletionRequest
    ) -> None:
        self._lives = lives
        self._usage = data.with_usage
        self._base = _base(lives[0], generations, data)
        if data.with_usage:
            self._base.usage = None

    def opening(self, live: LiveRequest) -> None:
        del live  # nothing comes before a continuation

    def piece(self, live: LiveRequest, piece: Piece) -> Completion:
        return self._chunk(TextChoice(piece.text, None, live.choice, _scored(live, piece)))

    def closing(self, live: LiveRequest) -> Completion:
        return self._chunk(TextChoice("", live.finish_reason, live.choice))

    def usage(self) -> Completion | None:
        if not self._usage:
            return None
        return msgspec.structs.replace(self._base, usage=Usage.of(*self._lives))

    def _chunk(self, choice: TextChoice) -> Completion:
        return msgspec.structs.replace(self._base, choices=[choice])
