"""The endpoints that lines of batch jobs may name, with the rules of their own routes."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec
from litestar.exceptions import SerializationException
from litestar.serialization import decode_json
from msgspec import UNSET, Struct, UnsetType

from gateway.api.errors import error_body, status_of
from gateway.api.json_errors import explain_json_error, other_encoding
from gateway.api.json_values import count_values
from gateway.api.openai import chat, completions
from gateway.api.openai.answers import AnswerFormat, best_of, encode_choice
from gateway.api.openai.chat_schema import ChatCompletionRequest
from gateway.api.openai.completion_schema import CompletionRequest
from gateway.api.openai.sampling_schema import SamplingRequest, Usage, created
from gateway.api.validation import convert_strictly
from gateway.errors import (
    InvalidRequest,
    LmaasError,
    ModelNotFound,
    UnsupportedParameter,
    shortened,
)
from gateway.generation.request import GenerationRequest
from gateway.generation.request_state import RequestState
from gateway.jobs.batches.endpoint import Endpoint, ServedName
from gateway.tenancy.caller import Caller

Body = TypeVar("Body", bound=SamplingRequest)


class _SentTier(Struct):
    """The field of a body that its answer repeats."""

    service_tier: str | None = None


class LineEndpoint(Endpoint):
    """Reads lines as an endpoint's bodies, and formats their answers as the endpoint does."""

    def __init__(
        self,
        kind: type[Body],
        form: AnswerFormat[Any],
        to_request: Callable[[Body, Caller], GenerationRequest],
    ) -> None:
        self._kind = kind
        self._form = form
        self._to_request: Callable[[Any, Caller], GenerationRequest] = to_request

    async def count_values(self, body: bytes, enough: int) -> int:
        """Keys and values of a JSON body."""
        return await count_values(body, enough)

    def read(self, body: bytes, caller: Caller, model: str) -> GenerationRequest:
        """The request. InvalidRequest, UnsupportedParameter, ModelNotFound."""
        data = self._decode(body)
        if data.stream:
            raise UnsupportedParameter(
                "stream is not supported in a batch; accepted is False", param="stream"
            )
        if data.model != model:
            raise ModelNotFound(
                f"the model {shortened(data.model)!r} is not served here; served is {model!r}",
                param="model",
            )
        # An app's memory is for its other requests: lines of jobs have theirs on the device.
        return self._to_request(data, msgspec.structs.replace(caller, memory="device"))

    def kept(self, body: bytes) -> bytes:
        """The fields that the answer repeats."""
        return msgspec.json.encode(msgspec.json.decode(body, type=_SentTier))

    def answer(self, kept: bytes, states: Sequence[RequestState], served: ServedName) -> bytes:
        """The answer as the endpoint's route gives it."""
        first, form = states[0], self._form
        sent = msgspec.json.decode(kept, type=_SentTier).service_tier
        tier: str | UnsetType = UNSET if sent is None else first.request.service_tier
        choices = [
            msgspec.Raw(encode_choice(form, index, state))
            for index, state in enumerate(best_of(states))
        ]
        return msgspec.json.encode(
            form.body(
                id=f"{form.prefix}{first.id.hex}",
                created=created(first),
                model=served.model,
                system_fingerprint=served.fingerprint,
                service_tier=tier,
                usage=Usage.of(*states),
                choices=choices,
            )
        )

    def error(self, error: LmaasError) -> tuple[int, bytes]:
        """Status and body of the route's response to an error."""
        return status_of(error), msgspec.json.encode(error_body(error))

    def _decode(self, body: bytes) -> SamplingRequest:
        if reason := other_encoding(body):
            raise InvalidRequest(reason)
        try:
            decoded = decode_json(body)
        except (SerializationException, UnicodeDecodeError, RecursionError) as error:
            raise InvalidRequest(explain_json_error(body, error)) from error
        if isinstance(decoded, dict):
            decoded, _ = self._kind.screen(decoded)
        data: SamplingRequest = convert_strictly(decoded, self._kind)
        return data


def _one(data: CompletionRequest, caller: Caller) -> GenerationRequest:
    """The request of a line with one prompt."""
    requests = data.to_requests(caller)
    if len(requests) > 1:
        raise UnsupportedParameter(
            f"{len(requests)} prompts are not supported in a line of a batch; accepted is one",
            param="prompt",
        )
    return requests[0]


ENDPOINTS: Final[dict[str, Endpoint]] = {
    "/v1/chat/completions": LineEndpoint(
        ChatCompletionRequest, chat.FORM, ChatCompletionRequest.to_request
    ),
    "/v1/completions": LineEndpoint(CompletionRequest, completions.FORM, _one),
}
