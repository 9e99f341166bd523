"""OpenAI's chat completion messages, as clients send and read them."""

from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.api.sampling_schema import SamplingRequest, Usage
from gateway.errors import UnsupportedParameter
from gateway.generation.ask import Ask, Message
from gateway.tenancy.authentication import Caller

# Each changes what the answer means, so none is ignored; the values that ask for nothing pass.
_UNSUPPORTED: Final[dict[str, tuple[object, ...]]] = {
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}


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
    n: Any = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    logit_bias: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None

    def ask(self, caller: Caller) -> Ask:
        """The request as the service takes it. InvalidRequest names what is not accepted."""
        self.refuse(_UNSUPPORTED)
        newer = self.max_completion_tokens
        return self.sampled(
            caller,
            messages=tuple(
                Message(message.role, message.text(place))
                for place, message in enumerate(self.messages)
            ),
            max_tokens=self.max_tokens if newer is None else newer,
        )


class AnswerMessage(Struct):
    """The whole answer."""

    content: str
    role: str = "assistant"
    refusal: None = None


class Choice(Struct):
    """The one choice of a completion."""

    message: AnswerMessage
    finish_reason: str
    index: int = 0
    logprobs: None = None


class ChatCompletion(Struct):
    """The answer to a request that does not stream."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    system_fingerprint: str
    object: str = "chat.completion"


class Delta(Struct, omit_defaults=True):
    """What a chunk adds to the answer."""

    role: str | None = None
    content: str | None = None


class ChunkChoice(Struct):
    """The one choice of a chunk."""

    delta: Delta
    finish_reason: str | None = None
    index: int = 0
    logprobs: None = None


class ChatCompletionChunk(Struct):
    """One event of a streamed answer; `usage` is there only where it was asked for."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    system_fingerprint: str
    usage: Usage | UnsetType | None = UNSET
    object: str = "chat.completion.chunk"
