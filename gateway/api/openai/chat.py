"""`POST /v1/chat/completions`: plain and streamed."""

from typing import Any, Final

from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.response import Stream

from gateway.api.openai.answers import Form, answered
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
from gateway.api.openai.sampling_schema import scored
from gateway.api.openai.timeouts import ClientTimeouts
from gateway.generation.request_state import Piece, RequestState
from gateway.generation.service import GenerationService
from gateway.tenancy.authentication import Caller


def _choice(index: int, live: RequestState, answer: Piece) -> Choice:
    logprobs = scored(live, answer, ChoiceLogprobs.of)
    return Choice(AnswerMessage(answer.text), live.finish_reason, index, logprobs)


def _part(live: RequestState, piece: Piece | None) -> ChunkChoice:
    if piece is None:
        return ChunkChoice(Delta(), live.choice, live.finish_reason)
    logprobs = scored(live, piece, ChoiceLogprobs.of)
    return ChunkChoice(Delta(content=piece.text), live.choice, logprobs=logprobs)


def _opening(live: RequestState) -> ChunkChoice:
    return ChunkChoice(Delta(role="assistant", content=""), live.choice)


FORM: Final = Form("chatcmpl-", ChatCompletion, ChatCompletionChunk, _choice, _part, _opening)


class ChatController(Controller):
    """Answers conversations."""

    path = "/chat/completions"

    @post(status_code=200, summary="Answer a conversation, whole or as a stream")
    async def complete(
        self,
        data: JSONBody[ChatCompletionRequest],
        caller: NamedDependency[Caller],
        patience: NamedDependency[ClientTimeouts],
        generations: NamedDependency[GenerationService],
        request: Request[Any, Any, Any],
    ) -> Response[ChatCompletion] | Stream:
        """The served model's answer, or `n` of them, in OpenAI's form."""
        generations.check_model(data.model)
        lives = await generations.start(data.ask(caller, patience))
        return await answered(FORM, lives, generations, data, request)
