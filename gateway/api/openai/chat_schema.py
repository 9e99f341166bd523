"""Request and response bodies of OpenAI's chat completions."""

import re
from typing import Annotated, Any, Final, Self

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import replace

from gateway.api.openai.conversation.calls import AnswerMessage, Delta
from gateway.api.openai.conversation.messages import (
    ChatMessage,
    read_messages,
    screen_messages,
)
from gateway.api.openai.conversation.tools import ToolFields, screen_tools
from gateway.api.openai.parameters import IGNORED_FIELDS, REFUSED_FIELDS, FieldRules
from gateway.api.openai.ranges import Range
from gateway.api.openai.sampling_schema import NO_TIMEOUTS, Usage
from gateway.api.openai.timeouts import ClientTimeouts
from gateway.errors import InvalidRequest, shortened
from gateway.generation.request import GenerationRequest, ServiceTier
from gateway.generation.text.growing_answer import Piece
from gateway.generation.text.logprobs import TokenCandidate
from gateway.tenancy.authentication import Caller

REFUSED: Final[dict[str, tuple[object, ...]]] = {
    **REFUSED_FIELDS,
    "add_special_tokens": (False,),
    "audio": (),
    "chat_template": (),
    "documents": ([],),
    "echo": (False,),
    "include_reasoning": (True,),
    "media_io_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "thinking_token_budget": (),
    "verbosity": ("medium",),
    "web_search_options": (),
}
_RANGES: Final = {"top_logprobs": Range(0, 20)}
MAX_VARIABLES_BYTES: Final = 16_384
VARIABLE_NAME: Final = re.compile("[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)


class ChatCompletionRequest(ToolFields, kw_only=True):
    """The body of `POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, _RANGES["top_logprobs"].documented] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @classmethod
    def rules(cls) -> FieldRules:
        """Which top-level fields are accepted."""
        return RULES

    @classmethod
    def screen(cls, body: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Also screens the messages, their parts, and the tools."""
        fields, ignored = super().screen(body)
        screen_tools(fields)
        return fields, [*ignored, *screen_messages(fields)]

    def to_request(
        self, caller: Caller, timeouts: ClientTimeouts = NO_TIMEOUTS
    ) -> GenerationRequest:
        """The request for the service. InvalidRequest names a field that is not accepted."""
        self.check(_RANGES)
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest(
                f"top_logprobs is {self.top_logprobs}; it is only accepted with logprobs set to "
                "true",
                param="top_logprobs",
            )
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequest(
                "continue_final_message is true; then add_generation_prompt cannot be true",
                param="continue_final_message",
            )
        newer = self.max_completion_tokens
        return self.generation_request(
            caller,
            timeouts,
            messages=read_messages(self.messages),
            tools=self.tool_use(),
            max_tokens=self.max_tokens if newer is None else newer,
            limit_param="max_tokens" if newer is None else "max_completion_tokens",
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            prompt_options=replace(
                self.prompt_options,
                variables=self._variables(),
                opens_answer=self.add_generation_prompt is not False,
                continues_final=bool(self.continue_final_message),
            ),
        )

    def _variables(self) -> dict[str, Any]:
        """The variables of the chat template. InvalidRequest for a bad name or for too many."""
        given = self.chat_template_kwargs or {}
        bad = [name for name in given if not VARIABLE_NAME.fullmatch(name)]
        if bad:
            raise InvalidRequest(
                f"chat_template_kwargs sets {shortened(bad[0])!r}; accepted are names of up to 64 "
                "letters, digits and underscores",
                param="chat_template_kwargs",
            )
        size = len(msgspec.json.encode(given))
        if size > MAX_VARIABLES_BYTES:
            raise InvalidRequest(
                f"chat_template_kwargs has {size} bytes; at most {MAX_VARIABLES_BYTES} are "
                "accepted",
                param="chat_template_kwargs",
            )
        return given


RULES: Final = FieldRules(
    frozenset(ChatCompletionRequest.__struct_fields__), IGNORED_FIELDS, REFUSED
)


class LikelyToken(Struct, gc=False):
    """A candidate token; `bytes` is null for a control token, which has no text."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(LikelyToken, gc=False):
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


class Choice(Struct):
    """One answer, and the limit on use or the stop of the request that ended it."""

    message: AnswerMessage
    finish_reason: str | None
    index: int
    logprobs: ChoiceLogprobs | None = None
    limited_by: str | UnsetType = UNSET
    stop_reason: int | str | UnsetType = UNSET


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


class ChunkChoice(Struct):
    """A chunk of one answer; the last has the limit on use or the stop that ended it."""

    delta: Delta
    index: int
    finish_reason: str | None = None
    logprobs: ChoiceLogprobs | None = None
    limited_by: str | UnsetType = UNSET
    stop_reason: int | str | UnsetType = UNSET


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
