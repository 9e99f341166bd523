"""`POST /v1/chat/completions`: plain and streamed."""

from collections.abc import Sequence
from typing import Any

import msgspec
from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.response import Stream

from gateway.api.chat_schema import (
    AnswerMessage,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    Choice,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
)
from gateway.api.patience import Patience
from gateway.api.sampling_schema import Usage, created
from gateway.api.streams import (
    batched,
    cancel_all,
    ended_before_disconnect,
    predicted,
    streamed,
)
from gateway.errors import ClientGone
from gateway.generation.answer import whole
from gateway.generation.live import LiveRequest, Piece
from gateway.generation.service import Generations
from gateway.tenancy.authentication import Caller


class ChatController(Controller):
    """Answers conversations."""

    path = "/chat/completions"

    @post(status_code=200, summary="Answer a conversation, whole or as a stream")
    async def complete(
        self,
        data: JSONBody[ChatCompletionRequest],
        caller: NamedDependency[Caller],
        patience: NamedDependency[Patience],
        generations: NamedDependency[Generations],
        request: Request[Any, Any, Any],
    ) -> Response[ChatCompletion] | Stream:
        """The served model's answer, or `n` of them, in OpenAI's form."""
        generations.check_model(data.model)
        lives = await generations.start(data.ask(caller, patience))
        if data.stream:
            return streamed(lives, generations, _Chunks(lives, generations, data))
        try:
            if not await ended_before_disconnect(lives, request):
                raise ClientGone("the client went away")
            choices = [await _choice(live) for live in lives]
        finally:
            cancel_all(lives, generations)
        return Response(
            ChatCompletion(
                id=_name(lives[0]),
                created=created(lives[0]),
                model=generations.model,
                choices=choices,
                usage=Usage.of(*lives),
                system_fingerprint=generations.fingerprint,
                service_tier=data.applied_tier,
            ),
            headers=predicted(lives[0]) | batched(lives[0]),
        )


async def _choice(live: LiveRequest) -> Choice:
    answer = await whole(live)
    return Choice(
        AnswerMessage(answer.text), live.finish_reason, live.choice, _scored(live, answer)
    )


def _scored(live: LiveRequest, piece: Piece) -> ChoiceLogprobs | None:
    return None if live.ask.sampling.logprobs is None else ChoiceLogprobs.of(piece)


def _name(live: LiveRequest) -> str:
    return f"chatcmpl-{live.id.hex}"


class _Chunks:
    """The events of a streamed conversation."""

    def __init__(
        self,
        lives: Sequence[LiveRequest],
        generations: Generations,
        data: ChatCompletionRequest,
    ) -> None:
        self._lives = lives
        self._usage = data.with_usage
        self._base = ChatCompletionChunk(
            id=_name(lives[0]),
            created=created(lives[0]),
            model=generations.model,
            choices=[],
            system_fingerprint=generations.fingerprint,
            usage=None if data.with_usage else msgspec.UNSET,
            service_tier=data.applied_tier,
        )

    def opening(self, live: LiveRequest) -> ChatCompletionChunk:
        return self._chunk(ChunkChoice(Delta(role="assistant", content=""), live.choice))

    def piece(self, live: LiveRequest, piece: Piece) -> ChatCompletionChunk:
        scored = _scored(live, piece)
        return self._chunk(ChunkChoice(Delta(content=piece.text), live.choice, logprobs=scored))

    def closing(self, live: LiveRequest) -> ChatCompletionChunk:
        return self._chunk(ChunkChoice(Delta(), live.choice, live.finish_reason))

    def usage(self) -> ChatCompletionChunk | None:
        if not self._usage:
            return None
        return msgspec.structs.replace(self._base, usage=Usage.of(*self._lives))

    def _chunk(self, choice: ChunkChoice) -> ChatCompletionChunk:
        return msgspec.structs.replace(self._base, choices=[choice])
