"""Request and response bodies of OpenAI's text completions."""

from typing import Annotated, Final, Self, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.api.openai.parameters import IGNORED_FIELDS, REFUSED_FIELDS, FieldRules
from gateway.api.openai.ranges import Range
from gateway.api.openai.sampling_schema import NO_TIMEOUTS, SamplingRequest, Usage
from gateway.api.openai.timeouts import ClientTimeouts
from gateway.errors import UnsupportedParameter
from gateway.generation.request import GenerationRequest, ServiceTier
from gateway.generation.text.growing_answer import Piece
from gateway.generation.text.logprobs import ScoredToken
from gateway.tenancy.authentication import Caller

DEFAULT_TOKENS: Final = 16  # OpenAI's default
MAX_TOTAL_CHOICES: Final = 128
TokenId: TypeAlias = Annotated[int, Meta(ge=0)]
Prompts: TypeAlias = Annotated[
    list[str | TokenId | list[TokenId]], Meta(min_length=1, max_length=100_000)
]

REFUSED: Final[dict[str, tuple[object, ...]]] = {
    **REFUSED_FIELDS,
    "add_special_tokens": (True,),
    "echo": (False,),
    "prompt_embeds": (),
    "suffix": ("",),
}
_RANGES: Final = {"logprobs": Range(0, 5)}


class CompletionRequest(SamplingRequest, kw_only=True):
    """The body of `POST /v1/completions`: one or more prompts, as text or token ids."""

    prompt: str | Prompts
    logprobs: Annotated[int, _RANGES["logprobs"].documented] | None = None

    @classmethod
    def rules(cls) -> FieldRules:
        """Which top-level fields are accepted."""
        return RULES

    def to_requests(
        self, caller: Caller, timeouts: ClientTimeouts = NO_TIMEOUTS
    ) -> list[GenerationRequest]:
        """One request per prompt. InvalidRequest or UnsupportedParameter names a field."""
        self.check(_RANGES)
        prompts = self._prompts()
        if len(prompts) > MAX_TOTAL_CHOICES // self.generated_choices:
            raise UnsupportedParameter(
                f"{len(prompts)} prompts for {self.generated_choices} choices each are not "
                f"supported by this gateway; accepted are at most {MAX_TOTAL_CHOICES} choices",
                param="prompt",
            )
        max_tokens = DEFAULT_TOKENS if self.max_tokens is None else self.max_tokens
        return [
            self.generation_request(
                caller,
                timeouts,
                prompt=prompt,
                max_tokens=max_tokens,
                logprobs=self.logprobs,
                prompt_options=self.prompt_options,
            )
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
                "a prompt of token ids and texts is not supported by this gateway; accepted is a "
                "text, a list of texts, a list of token ids, or a list of such lists",
                param="prompt",
            )
        return [item if isinstance(item, str) else tuple(item) for item in self._several()]

    def _several(self) -> list[str | list[int]]:
        return [item for item in self.prompt if isinstance(item, str | list)]


RULES: Final = FieldRules(frozenset(CompletionRequest.__struct_fields__), IGNORED_FIELDS, REFUSED)


class TextLogprobs(Struct):
    """The tokens of the continuation or of a chunk; `text_offset` counts characters.

    `top_logprobs` holds the most likely tokens at each position, and the sampled one.
    """

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]

    @classmethod
    def of(cls, piece: Piece) -> Self:
        """The tokens of a piece in this format."""
        scored = piece.scored
        return cls(
            tokens=[each.sampled.token.text for each in scored],
            token_logprobs=[each.sampled.logprob for each in scored],
            top_logprobs=[_by_text(each) for each in scored],
            text_offset=[each.start for each in scored],
        )


def _by_text(scored: ScoredToken) -> dict[str, float]:
    """Log probabilities of the top tokens and the sampled one by text; of equal texts the top."""
    found: dict[str, float] = {}
    for likely in scored.top:
        found.setdefault(likely.token.text, likely.logprob)
    found[scored.sampled.token.text] = scored.sampled.logprob
    return found


class TextChoice(Struct):
    """One continuation, and the limit on use or the stop of the request that ended it."""

    text: str
    finish_reason: str | None
    index: int
    logprobs: TextLogprobs | None = None
    limited_by: str | UnsetType = UNSET
    stop_reason: int | str | UnsetType = UNSET


class Completion(Struct):
    """A full answer, or one event of a stream."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    system_fingerprint: str
    usage: Usage | UnsetType | None = UNSET
    service_tier: ServiceTier | UnsetType = UNSET
    object: str = "text_completion"
