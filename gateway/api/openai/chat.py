"""`POST /v1/chat/completions`: plain and streamed."""

from collections.abc import Iterator
from typing import Any, Final

from litestar import Controller, Request, Response, post
from litestar.di import NamedDependency
from litestar.params import JSONBody
from litestar.response import Stream
from msgspec.structs import replace

from gateway.api.openai.answers import AnswerFormat, respond
from gateway.api.openai.chat_schema import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    Choice,
    ChoiceLogprobs,
    ChunkChoice,
)
from gateway.api.openai.conversation.calls import AnswerMessage, Delta, finish_reason
from gateway.api.openai.sampling_schema import end_of, piece_logprobs
from gateway.api.openai.timeouts import ClientTimeouts
from gateway.api.openapi import streamed
from gateway.generation.request import Ceiling
from gateway.generation.request_state import RequestState
from gateway.generation.service import GenerationService
from gateway.generation.text.growing_answer import Piece
from gateway.tenancy.authentication import Caller


def _choice(index: int, state: RequestState, text: str) -> Choice:
    message = AnswerMessage.of(state, text)
    return Choice(message, finish_reason(state), index, **end_of(state))


def _parts(index: int, state: RequestState, piece: Piece | None) -> Iterator[ChunkChoice]:
    """A piece, unless it is held back; at the end what was, and then the end."""
    delta = Delta.of(state, "" if piece is None else piece.text, ended=piece is None)
    logprobs = None if piece is None else piece_logprobs(state, piece, ChoiceLogprobs.of)
    if delta != NO_DELTA or (logprobs is not None and logprobs.content):
        yield ChunkChoice(delta, index, logprobs=logprobs)
    if piece is None:
        yield ChunkChoice(NO_DELTA, index, finish_reason(state), **end_of(state))


def _opening(index: int, state: RequestState) -> ChunkChoice:
    content = "" if state.calls is None else None
    return ChunkChoice(Delta(role="assistant", content=content), index)


NO_DELTA: Final = Delta()
FORM: Final = AnswerFormat(
    "chatcmpl-", ChatCompletion, ChatCompletionChunk, _choice, _parts, ChoiceLogprobs.of, _opening
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
        timeouts = timeouts.with_metadata(data.metadata)
        asked = replace(data.to_request(caller, timeouts), ceiling=ceiling)
        states = await service.start(asked)
        return await respond(FORM, states, service, data, request, timeouts)
