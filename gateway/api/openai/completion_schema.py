"""OpenAI's text completion messages, as clients send and read them."""

from typing import Annotated, Any, Final, Self, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.api.openai.ranges import Range
from gateway.api.openai.sampling_schema import PATIENT, SamplingRequest, Usage
from gateway.api.openai.timeouts import ClientTimeouts
from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.request import GenerationRequest, ServiceTier
from gateway.generation.request_state import Piece
from gateway.generation.text.logprobs import ScoredToken
from gateway.tenancy.authentication import Caller

DEFAULT_TOKENS: Final = 16  # as OpenAI's
MOST_PROMPTS: Final = 128
TokenId: TypeAlias = Annotated[int, Meta(ge=0)]
Prompts: TypeAlias = Annotated[
    list[str | TokenId | list[TokenId]], Meta(min_length=1, max_length=100_000)
]

# Each changes what the answer means, so none is ignored; the values that ask for nothing pass.
_UNSUPPORTED: Final[dict[str, tuple[object, ...]]] = {
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
}
_RANGES: Final = {"logprobs": Range(0, 5)}


class CompletionRequest(SamplingRequest, kw_only=True):
    """The body of `POST /v1/completions`: one prompt or some, as text or as token ids."""

    prompt: str | Prompts
    logprobs: int | None = None
    best_of: Any = None
    echo: Any = None
    suffix: Any = None

    def asks(self, caller: Caller, patience: ClientTimeouts = PATIENT) -> list[GenerationRequest]:
        """One ask for each prompt. InvalidRequest names what is not accepted."""
        self.check(_UNSUPPORTED, _RANGES)
        prompts = self._prompts()
        if len(prompts) > MOST_PROMPTS // self.choices:
            raise InvalidRequest(
                f"{len(prompts)} prompts were sent for {self.choices} choices each; at most "
                f"{MOST_PROMPTS} choices are accepted",
                param="prompt",
            )
        if self.stream and len(prompts) > 1:
            raise UnsupportedParameter(
                f"a stream continues one prompt; {len(prompts)} were sent", param="prompt"
            )
        most = DEFAULT_TOKENS if self.max_tokens is None else self.max_tokens
        return [
            self.sampled(caller, patience, prompt=prompt, max_tokens=most, logprobs=self.logprobs)
            for prompt in prompts
        ]

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


class TextLogprobs(Struct):
    """The continuation's tokens, or those of a chunk; `text_offset` counts characters of it.

    `top_logprobs` are the likeliest in each place, and the token that was drawn.
    """

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]

    @classmethod
    def of(cls, piece: Piece) -> Self:
        """What became of the tokens of a piece."""
        scored = piece.scored
        return cls(
            tokens=[each.drawn.token.text for each in scored],
            token_logprobs=[each.drawn.logprob for each in scored],
            top_logprobs=[_by_text(each) for each in scored],
            text_offset=[each.start for each in scored],
        )


def _by_text(scored: ScoredToken) -> dict[str, float]:
    """The likeliest by their text, where some look alike the likeliest, and the drawn one."""
    found: dict[str, float] = {}
    for likely in scored.likeliest:
        found.setdefault(likely.token.text, likely.logprob)
    found[scored.drawn.token.text] = scored.drawn.logprob
    return found


class TextChoice(Struct):
    """One continuation of a prompt."""

    text: str
    finish_reason: str | None
    index: int
    logprobs: TextLogprobs | None = None


class Completion(Struct):
    """A whole answer, or one event of a streamed one."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    system_fingerprint: str
    usage: Usage | UnsetType | None = UNSET
    service_tier: ServiceTier | UnsetType = UNSET
    object: str = "text_completion"
