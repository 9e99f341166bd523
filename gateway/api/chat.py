"""`POST /v1/chat/completions`: plain and streamed."""

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
    ChunkChoice,
    Delta,
)
from gateway.api.sampling_schema import Usage, created
from gateway.api.streams import batched, ended_before_disconnect, predicted, streamed
from gateway.errors import ClientGone
from gateway.generation.answer import whole
from gateway.generation.live import LiveRequest
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
        generations: NamedDependency[Generations],
        request: Request[Any, Any, Any],
    ) -> Response[ChatCompletion] | Stream:
        """One answer of the served model, in OpenAI's form."""
        generations.check_model(data.model)
        live = await generations.start(data.ask(caller))
        if data.stream:
            return streamed(live, generations, _Chunks(live, generations, usage=data.with_usage))
        if not await ended_before_disconnect([live], request):
            generations.cancel(live)
            raise ClientGone("the client went away")
        answer = AnswerMessage(await whole(live))
        assert live.finish_reason is not None
        return Response(
            ChatCompletion(
                id=_name(live),
                created=created(live),
                model=generations.model,
                choices=[Choice(answer, live.finish_reason)],
                usage=Usage.of(live),
                system_fingerprint=generations.fingerprint,
            ),
            headers=predicted(live) | batched(live),
        )


def _name(live: LiveRequest) -> str:
    return f"chatcmpl-{live.id.hex}"


class _Chunks:
    """The events of a streamed conversation."""

    def __init__(self, live: LiveRequest, generations: Generations, *, usage: bool) -> None:
        self._live = live
        self._usage = usage
        self._base = ChatCompletionChunk(
            id=_name(live),
            created=created(live),
            model=generations.model,
            choices=[],
            system_fingerprint=generations.fingerprint,
            usage=None if usage else msgspec.UNSET,
        )

    def opening(self) -> ChatCompletionChunk:
        return self._chunk(Delta(role="assistant", content=""))

    def piece(self, text: str) -> ChatCompletionChunk:
        return self._chunk(Delta(content=text))

    def closing(self) -> ChatCompletionChunk:
        return self._chunk(Delta(), self._live.finish_reason)

    def usage(self) -> ChatCompletionChunk | None:
        if not self._usage:
            return None
        return msgspec.structs.replace(self._base, usage=Usage.of(self._live))

    def _chunk(self, delta: Delta, finish_reason: str | None = None) -> ChatCompletionChunk:
        return msgspec.structs.replace(self._base, choices=[ChunkChoice(delta, finish_reason)])
