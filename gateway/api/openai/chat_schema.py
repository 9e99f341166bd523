"""OpenAI's chat completion messages, as clients send and read them."""

from typing import Annotated, Any, Final, Literal, Self

from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.api.openai.ranges import Range
from gateway.api.openai.sampling_schema import PATIENT, SamplingRequest, Usage
from gateway.api.openai.timeouts import ClientTimeouts
from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.request import GenerationRequest, Message, ServiceTier
from gateway.generation.request_state import Piece
from gateway.generation.text.logprobs import Likelihood
from gateway.tenancy.authentication import Caller

# Each changes what the answer means, so none is ignored; the values that ask for nothing pass.
_UNSUPPORTED: Final[dict[str, tuple[object, ...]]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}


_RANGES: Final = {"top_logprobs": Range(0, 20)}


class ContentPart(Struct):
    """One part of a message's content; only text is understood."""

    type: str
    text: str | None = None


class ChatMessage(Struct):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart] | None = None

    def text(self, place: int) -> str:
        """The content as plain text; UnsupportedParameter where it is more than text."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        for number, part in enumerate(self.content):
            if part.type != "text" or part.text is None:
                raise UnsupportedParameter(
                    f"messages[{place}].content[{number}] is of type {part.type!r}; "
                    "only 'text' is accepted",
                    param=f"messages[{place}].content[{number}]",
                )
        return "\n".join(part.text or "" for part in self.content)


class ChatCompletionRequest(SamplingRequest, kw_only=True):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None

    def ask(self, caller: Caller, patience: ClientTimeouts = PATIENT) -> GenerationRequest:
        """The request as the service takes it. InvalidRequest names what is not accepted."""
        self.check(_UNSUPPORTED, _RANGES)
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest(
                f"top_logprobs is {self.top_logprobs}; it is only accepted with logprobs set to "
                "true",
                param="top_logprobs",
            )
        newer = self.max_completion_tokens
        return self.sampled(
            caller,
            patience,
            messages=tuple(
                Message(message.role, message.text(place))
                for place, message in enumerate(self.messages)
            ),
            max_tokens=self.max_tokens if newer is None else newer,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


class LikelyToken(Struct):
    """A token that was likely; `bytes` is null for a control token, which has no text."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(LikelyToken):
    """A token of the answer, and the likeliest in its place."""

    top_logprobs: list[LikelyToken]


class ChoiceLogprobs(Struct):
    """The answer's tokens, or those of a chunk."""

    content: list[TokenLogprob]
    refusal: None = None

    @classmethod
    def of(cls, piece: Piece) -> Self:
        """What became of the tokens of a piece."""
        return cls(
            [
                TokenLogprob(
                    *_likely(scored.drawn),
                    [LikelyToken(*_likely(likely)) for likely in scored.likeliest],
                )
                for scored in piece.scored
            ]
        )


def _likely(likelihood: Likelihood) -> tuple[str, float, list[int] | None]:
    token = likelihood.token
    return token.text, likelihood.logprob, None if token.bytes is None else list(token.bytes)


class AnswerMessage(Struct):
    """The whole answer."""

    content: str
    role: str = "assistant"
    refusal: None = None


class Choice(Struct):
    """One answer."""

    message: AnswerMessage
    finish_reason: str | None
    index: int
    logprobs: ChoiceLogprobs | None


class ChatCompletion(Struct):
    """The answer to a request that does not stream."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str
    service_tier: ServiceTier | UnsetType = UNSET
    object: str = "chat.completion"


class Delta(Struct, omit_defaults=True):
    """What a chunk adds to the answer."""

    role: str | None = None
    content: str | None = None


class ChunkChoice(Struct):
    """What a chunk tells of one answer."""

    delta: Delta
    index: int
    finish_reason: str | None = None
    logprobs: ChoiceLogprobs | None = None


class ChatCompletionChunk(Struct):
    """One event of a streamed answer; `usage` is there only where it was asked for."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    system_fingerprint: str
    usage: Usage | UnsetType | None = UNSET
    service_tier: ServiceTier | UnsetType = UNSET
    object: str = "chat.completion.chunk"
