"""OpenAI's text completion messages, as clients send and read them."""

from typing import Annotated, Any, Final, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.api.sampling_schema import SamplingRequest, Usage
from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.ask import Ask
from gateway.tenancy.authentication import Caller

DEFAULT_TOKENS: Final = 16  # as OpenAI's
MOST_PROMPTS: Final = 128
TokenId: TypeAlias = Annotated[int, Meta(ge=0)]
Prompts: TypeAlias = Annotated[
    list[str | TokenId | list[TokenId]], Meta(min_length=1, max_length=100_000)
]

# Each changes what the answer means, so none is ignored; the values that ask for nothing pass.
_UNSUPPORTED: Final[dict[str, tuple[object, ...]]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (),
    "logit_bias": ({},),
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
}


class CompletionRequest(SamplingRequest, kw_only=True):
    """The body of `POST /v1/completions`: one prompt or some, as text or as token ids."""

    prompt: str | Prompts
    n: Any = None
    best_of: Any = None
    echo: Any = None
    logprobs: Any = None
    logit_bias: Any = None
    suffix: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None

    def asks(self, caller: Caller) -> list[Ask]:
        """One ask for each prompt. InvalidRequest names what is not accepted."""
        self.refuse(_UNSUPPORTED)
        prompts = self._prompts()
        if len(prompts) > MOST_PROMPTS:
            raise InvalidRequest(
                f"{len(prompts)} prompts were sent; at most {MOST_PROMPTS} are accepted",
                param="prompt",
            )
        if self.stream and len(prompts) > 1:
            raise UnsupportedParameter(
                f"a stream continues one prompt; {len(prompts)} were sent", param="prompt"
            )
        most = DEFAULT_TOKENS if self.max_tokens is None else self.max_tokens
        return [self.sampled(caller, prompt=prompt, max_tokens=most) for prompt in prompts]

    def _prompts(self) -> list[str | tuple[int, ...]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = tuple(item for item in self.prompt if isinstance(item, int))
        if len(ids) == len(self.prompt):
            return [ids]
        if ids:
            raise UnsupportedParameter(
                "prompt mixes token ids with texts; accepted is a text, a list of texts, a list "
                "of token ids, or a list of such lists",
                param="prompt",
            )
        return [item if isinstance(item, str) else tuple(item) for item in self._several()]

    def _several(self) -> list[str | list[int]]:
        return [item for item in self.prompt if isinstance(item, str | list)]


class TextChoice(Struct):
    """The continuation of one prompt."""

    text: str
    finish_reason: str | None
    index: int = 0
    logprobs: None = None


class Completion(Struct):
    """A whole answer, or one event of a streamed one."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    system_fingerprint: str
    usage: Usage | UnsetType | None = UNSET
    object: str = "text_completion"
