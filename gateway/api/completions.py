"""`POST /v1/completions`: a prompt as it stands, continued; plain and streamed."""

import asyncio
from typing import Any
from uuid import UUID

import msgspec
from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.response import Stream

from gateway.api.completion_schema import Completion, CompletionRequest, TextChoice
from gateway.api.sampling_schema import Usage, created
from gateway.api.streams import ended_before_disconnect, predicted, streamed
from gateway.errors import ClientGone
from gateway.generation.answer import whole
from gateway.generation.ask import Ask
from gateway.generation.live import LiveRequest
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
        generations: NamedDependency[Generations],
        request: Request[Any, Any, Any],
    ) -> Response[Completion] | Stream:
        """The continuation of each prompt, in OpenAI's form; one prompt where it streams."""
        generations.check_model(data.model)
        lives = await _start_all(data.asks(caller), generations)
        if data.stream:
            (live,) = lives
            return streamed(live, generations, _Chunks(live, generations, usage=data.with_usage))
        try:
            if not await ended_before_disconnect(lives, request):
                raise ClientGone("the client went away")
            choices = [
                TextChoice(await whole(live), live.finish_reason, index)
                for index, live in enumerate(lives)
            ]
        finally:
            _cancel_all(lives, generations)
        completion = msgspec.structs.replace(
            _base(lives[0], generations), choices=choices, usage=Usage.of(*lives)
        )
        return Response(completion, headers=predicted(lives[0]))


async def _start_all(asks: list[Ask], generations: Generations) -> list[LiveRequest]:
    """Start all or none."""
    started = await asyncio.gather(*map(generations.start, asks), return_exceptions=True)
    lives = [each for each in started if isinstance(each, LiveRequest)]
    failures = [each for each in started if isinstance(each, BaseException)]
    if failures:
        _cancel_all(lives, generations)
        raise failures[0]
    return lives


def _cancel_all(lives: list[LiveRequest], generations: Generations) -> None:
    for live in lives:
        generations.cancel(live)


def _base(live: LiveRequest, generations: Generations) -> Completion:
    return Completion(
        id=_name(live.id),
        created=created(live),
        model=generations.model,
        choices=[],
        system_fingerprint=generations.fingerprint,
    )


def _name(request_id: UUID) -> str:
    return f"cmpl-{request_id.hex}"


class _Chunks:
    """The events of one streamed continuation."""

    def __init__(self, live: LiveRequest, generations: Generations, *, usage: bool) -> None:
        self._live = live
        self._usage = usage
        self._base = _base(live, generations)
        if usage:
            self._base.usage = None

    def opening(self) -> None:
        return None

    def piece(self, text: str) -> Completion:
        return self._chunk(TextChoice(text, None))

    def closing(self) -> Completion:
        return self._chunk(TextChoice("", self._live.finish_reason))

    def usage(self) -> Completion | None:
        if not self._usage:
            return None
        return msgspec.structs.replace(self._base, usage=Usage.of(self._live))

    def _chunk(self, choice: TextChoice) -> Completion:
        return msgspec.structs.replace(self._base, choices=[choice])
