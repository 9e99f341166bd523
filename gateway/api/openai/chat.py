"""`POST /v1/chat/completions`: plain and streamed."""

from typing import Any, Final

from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.response import Stream
from msgspec.structs import replace

from gateway.api.openai.answers import AnswerFormat, respond
from gateway.api.openai.chat_schema import (
    AnswerMessage,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    Choice,
    ChoiceLogprobs,
    ChunkChoice,
    Delta,
)
from gateway.api.openai.sampling_schema import end_of, piece_logprobs
from gateway.api.openai.timeouts import ClientTimeouts
from gateway.api.openapi import streamed
from gateway.generation.request import Ceiling
from gateway.generation.request_state import RequestState
from gateway.generation.service import GenerationService
from gateway.generation.text.growing_answer import Piece
from gateway.tenancy.authentication import Caller


def _choice(index: int, state: RequestState, text: str) -> Choice:
    return Choice(AnswerMessage(text), state.finish_reason, index, **end_of(state))


def _part(index: int, state: RequestState, piece: Piece | None) -> ChunkChoice:
    if piece is None:
        return ChunkChoice(Delta(), index, state.finish_reason, **end_of(state))
    logprobs = piece_logprobs(state, piece, ChoiceLogprobs.of)
    return ChunkChoice(Delta(content=piece.text), index, logprobs=logprobs)


def _opening(index: int) -> ChunkChoice:
    return ChunkChoice(Delta(role="assistant", content=""), index)


FORM: Final = AnswerFormat(
    "chatcmpl-", ChatCompletion, ChatCompletionChunk, _choice, _part, ChoiceLogprobs.of, _opening
)


class ChatController(Controller):
    """Completes conversations."""

    path = "/chat/completions"

    @post(
        status_code=200,
        summary="Complete a conversation, in full or as a stream",
        responses=streamed(ChatCompletion, 404, 409),
    )
    async def complete(
        self,
        data: JSONBody[ChatCompletionRequest],
        caller: NamedDependency[Caller],
        timeouts: NamedDependency[ClientTimeouts],
        ceiling: NamedDependency[Ceiling | None],
        service: NamedDependency[GenerationService],
        request: Request[Any, Any, Any],
    ) -> Response[ChatCompletion] | Stream:
        """The served model's answer, or `n` answers, in OpenAI's format."""
        service.check_model(data.model)
        asked = replace(data.to_request(caller, timeouts), ceiling=ceiling)
        states = await service.start(asked)
        return await respond(FORM, states, service, data, request, timeouts)
