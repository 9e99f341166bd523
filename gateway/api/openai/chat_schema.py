"""Request and response bodies of OpenAI's chat completions."""

from typing import Annotated, Any, Final, Literal, Self

from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.api.openai.ranges import Range
from gateway.api.openai.sampling_schema import NO_TIMEOUTS, SamplingRequest, Usage
from gateway.api.openai.timeouts import ClientTimeouts
from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.request import GenerationRequest, Message, ServiceTier
from gateway.generation.request_state import Piece
from gateway.generation.text.logprobs import TokenCandidate
from gateway.tenancy.authentication import Caller

# Each changes the answer's meaning, so none is ignored; values without effect are accepted.
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
    """One part of a message's content; only text is supported."""

    type: str
    text: str | None = None


class ChatMessage(Struct):
    """One turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[ContentPart] | None = None

    def text(self, place: int) -> str:
        """The content as plain text, its parts concatenated; UnsupportedParameter for others."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        for number, part in enumerate(self.content):
            if part.type != "text" or part.text is None:
                raise UnsupportedParameter(
                    f"messages[{place}].content[{number}] is of type {part.type!r}; "
                    "only 'text' is accepted",
                    param=f"messages[{place}].content[{number}]",
                )
        return "".join(part.text or "" for part in self.content)


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

    def to_request(
        self, caller: Caller, timeouts: ClientTimeouts = NO_TIMEOUTS
    ) -> GenerationRequest:
        """The request for the service. InvalidRequest names a field that is not accepted."""
        self.check(_UNSUPPORTED, _RANGES)
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest(
                f"top_logprobs is {self.top_logprobs}; it is only accepted with logprobs set to "
                "true",
                param="top_logprobs",
            )
        newer = self.max_completion_tokens
        return self.generation_request(
            caller,
            timeouts,
            messages=tuple(
                Message(message.role, message.text(place))
                for place, message in enumerate(self.messages)
            ),
            max_tokens=self.max_tokens if newer is None else newer,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )


class LikelyToken(Struct):
    """A candidate token; `bytes` is null for a control token, which has no text."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(LikelyToken):
    """A token of the answer, and the most likely tokens at its position."""

    top_logprobs: list[LikelyToken]


class ChoiceLogprobs(Struct):
    """The answer's tokens, or those of a chunk."""

    content: list[TokenLogprob]
    refusal: None = None

    @classmethod
    def of(cls, piece: Piece) -> Self:
        """The tokens of a piece in this format."""
        return cls(
            [
                TokenLogprob(
                    *_likely(scored.sampled),
                    [LikelyToken(*_likely(likely)) for likely in scored.top],
                )
                for scored in piece.scored
            ]
        )


def _likely(candidate: TokenCandidate) -> tuple[str, float, list[int] | None]:
    token = candidate.token
    return token.text, candidate.logprob, None if token.bytes is None else list(token.bytes)


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
    """The full answer to a request."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str
    service_tier: ServiceTier | UnsetType = UNSET
    object: str = "chat.completion"


class Delta(Struct, omit_defaults=True):
    """The part that a chunk adds to the answer."""

    role: str | None = None
    content: str | None = None


class ChunkChoice(Struct):
    """A chunk of one answer."""

    delta: Delta
    index: int
    finish_reason: str | None = None
    logprobs: ChoiceLogprobs | None = None


class ChatCompletionChunk(Struct):
    """One event of a streamed answer; `usage` is present only if requested."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    system_fingerprint: str
    usage: Usage | UnsetType | None = UNSET
    service_tier: ServiceTier | UnsetType = UNSET
    object: str = "chat.completion.chunk"
