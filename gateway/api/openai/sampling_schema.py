"""The fields common to chat and text completions: sampling, response options and usage."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, TypeAlias, TypedDict, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType

from engine.protocol import KvPlacement, Sampling
from gateway.api.openai.parameters import FieldRules
from gateway.api.openai.ranges import Range, check_ranges
from gateway.api.openai.structured_output import StructuredOutput, screen_structured_output
from gateway.api.openai.timeouts import DEADLINE, ClientTimeouts, screen_metadata
from gateway.api.validation import STORABLE
from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.request import (
    GenerationRequest,
    Message,
    ServiceTier,
    Stops,
    check_deadline,
    permitted_tier,
)
from gateway.generation.request_state import RequestState
from gateway.generation.text.growing_answer import Piece
from gateway.generation.text.prompt_options import PromptOptions
from gateway.generation.tools.definition import ToolUse
from gateway.tenancy.authentication import Caller

T = TypeVar("T")

EndUser: TypeAlias = Annotated[str, Meta(max_length=512, pattern=STORABLE)]
StopString: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
StopStrings: TypeAlias = Annotated[list[StopString], Meta(max_length=64)]
TokenId: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]
TokenIds: TypeAlias = Annotated[list[TokenId], Meta(max_length=1024)]
BadWord: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
BadWords: TypeAlias = Annotated[list[BadWord], Meta(max_length=128)]

# Requested tier to applied tier; OpenAI's newest clients send `fast` for priority.
TIERS: Final[dict[str, ServiceTier]] = {
    "auto": "default",
    "default": "default",
    "flex": "flex",
    "priority": "priority",
    "fast": "priority",
}
REFUSED_TIERS: Final = ("scale",)  # bought from OpenAI
TierName: TypeAlias = Annotated[str, Meta(extra_json_schema={"enum": list(TIERS)})]
NO_TIMEOUTS: Final = ClientTimeouts()

MAX_CHOICES: Final = 128
MAX_TOKENS: Final = 2**31 - 1
MAX_BIASED_TOKENS: Final = 1024
MAX_TOKEN_ID_DIGITS: Final = 9
MIN_TOP_P: Final = 1e-9  # of the engine, which needs a share above 0: only the likeliest token
BIAS: Final = Range(-100, 100)
RANGES: Final = {
    "n": Range(1, MAX_CHOICES),
    "best_of": Range(1, MAX_CHOICES),
    "min_tokens": Range(0, MAX_TOKENS),
    "truncate_prompt_tokens": Range(-1, MAX_TOKENS),
    "temperature": Range(0, 2),
    "top_p": Range(0, 1),
    "top_k": Range(-1, 1_000_000),
    "min_p": Range(0, 1),
    "presence_penalty": Range(-2, 2),
    "frequency_penalty": Range(-2, 2),
    "repetition_penalty": Range(0.01, 10),  # scores divided by less are no longer finite
}


class StreamOptions(Struct):
    """Options of a stream: the usage at its end, and with every event (vLLM's)."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


STREAM_OPTIONS: Final = FieldRules(
    frozenset(StreamOptions.__struct_fields__),
    ignored=frozenset({"include_obfuscation"}),
)


class SamplingRequest(StructuredOutput, kw_only=True):
    """The fields common to both kinds of request; null means unset.

    Of `metadata`, the names of the headers of timeouts are read. vLLM's extensions of OpenAI's API
    are `top_k` (-1 or 0: all), `min_p`, `repetition_penalty`, and the fields from `min_tokens` on.
    Our own is `memory`: where the keys and values of a request may be that the device cannot hold.
    """

    model: str
    max_tokens: int | None = None
    n: Annotated[int, RANGES["n"].documented] | None = None
    temperature: Annotated[float, RANGES["temperature"].documented] | None = None
    top_p: Annotated[float, RANGES["top_p"].documented] | None = None
    top_k: Annotated[int, RANGES["top_k"].documented] | None = None
    min_p: Annotated[float, RANGES["min_p"].documented] | None = None
    presence_penalty: Annotated[float, RANGES["presence_penalty"].documented] | None = None
    frequency_penalty: Annotated[float, RANGES["frequency_penalty"].documented] | None = None
    repetition_penalty: Annotated[float, RANGES["repetition_penalty"].documented] | None = None
    logit_bias: dict[str, float] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: StopString | StopStrings | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: EndUser | None = None
    safety_identifier: EndUser | None = None
    service_tier: TierName | None = None
    metadata: dict[str, Any] | None = None
    best_of: Annotated[int, RANGES["best_of"].documented] | None = None
    min_tokens: Annotated[int, RANGES["min_tokens"].documented] | None = None
    ignore_eos: bool | None = None
    stop_token_ids: TokenIds | None = None
    include_stop_str_in_output: bool | None = None
    allowed_token_ids: Annotated[TokenIds, Meta(min_length=1)] | None = None
    bad_words: BadWords | None = None
    truncate_prompt_tokens: Annotated[int, RANGES["truncate_prompt_tokens"].documented] | None = (
        None
    )
    truncation_side: Literal["left", "right"] | None = None
    memory: KvPlacement | None = None

    @classmethod
    def rules(cls) -> FieldRules:
        """Which top-level fields are accepted."""
        raise NotImplementedError

    @classmethod
    def screen(cls, body: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The fields to convert, and the names of those without effect. UnsupportedParameter."""
        fields, ignored = cls.rules().screen(body)
        options = fields.get("stream_options")
        if isinstance(options, dict):
            fields["stream_options"], more = STREAM_OPTIONS.screen(options, "stream_options.")
            ignored += [f"stream_options.{name}" for name in more]
        return fields, ignored + screen_metadata(fields) + screen_structured_output(fields)

    @property
    def with_usage(self) -> bool:
        """Whether the stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def usage_in_every_event(self) -> bool:
        """Whether each event of the stream has the usage so far."""
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)

    @property
    def choices(self) -> int:
        """Number of answers requested."""
        return 1 if self.n is None else self.n

    @property
    def generated_choices(self) -> int:
        """Number of answers to generate, of which the best are returned."""
        return self.choices if self.best_of is None else max(self.best_of, self.choices)

    @property
    def prompt_options(self) -> PromptOptions:
        """How much of the prompt is kept. InvalidRequest for a side without a length."""
        if self.truncation_side is not None and self.truncate_prompt_tokens is None:
            raise InvalidRequest(
                "truncation_side is only accepted with truncate_prompt_tokens",
                param="truncation_side",
            )
        if self.truncate_prompt_tokens == 0:
            raise InvalidRequest(
                "truncate_prompt_tokens is 0; accepted is -1, for what fits, or 1 and more",
                param="truncate_prompt_tokens",
            )
        return PromptOptions(
            most_tokens=self.truncate_prompt_tokens, keeps_end=self.truncation_side != "right"
        )

    def shown_tier(self, applied: ServiceTier) -> ServiceTier | UnsetType:
        """The service tier in answers; UNSET unless the request sets one."""
        return UNSET if self.service_tier is None else applied

    def generation_request(
        self,
        caller: Caller,
        timeouts: ClientTimeouts,
        *,
        messages: tuple[Message, ...] = (),
        prompt: str | tuple[int, ...] | None = None,
        tools: ToolUse | None = None,
        max_tokens: int | None,
        limit_param: str = "max_tokens",
        logprobs: int | None,
        prompt_options: PromptOptions,
    ) -> GenerationRequest:
        """The request for the service, of a conversation or a prompt.

        InvalidRequest names a field that is not accepted, KeyForbids one that the key rules out.
        """
        check_deadline(caller, timeouts.deadline_s, param=DEADLINE)
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "stream_options is only accepted with stream set to true", param="stream_options"
            )
        ranked = self._check_best_of()
        stop, form = self.stop or (), self.form()
        return GenerationRequest(
            caller=caller,
            messages=messages,
            prompt=prompt,
            end_user=self.safety_identifier or self.user,
            max_tokens=max_tokens,
            limit_param=limit_param,
            sampling=Sampling(
                temperature=_set(self.temperature, 1.0),
                top_k=max(_set(self.top_k, 0), 0),
                top_p=max(_set(self.top_p, 1.0), MIN_TOP_P),
                min_p=_set(self.min_p, 0.0),
                presence_penalty=_set(self.presence_penalty, 0.0),
                frequency_penalty=_set(self.frequency_penalty, 0.0),
                repetition_penalty=_set(self.repetition_penalty, 1.0),
                logit_bias=_bias(self.logit_bias or {}),
                allowed=self.allowed_token_ids or [],
                min_tokens=_set(self.min_tokens, 0),
                logprobs=0 if ranked and logprobs is None else logprobs,
            ),
            seed=self.seed,
            choices=self.generated_choices,
            kept=self.choices if ranked else None,
            logprobs=logprobs,
            stops=Stops(
                strings=(stop,) if isinstance(stop, str) else tuple(stop),
                token_ids=tuple(self.stop_token_ids or ()),
                shown=bool(self.include_stop_str_in_output),
                ignore_eos=bool(self.ignore_eos),
            ),
            bad_words=tuple(self.bad_words or ()),
            prompt_options=prompt_options,
            streamed=bool(self.stream),
            service_tier=permitted_tier(caller, self._wanted_tier),
            received_s=timeouts.received_s,
            deadline_s=timeouts.deadline_s,
            max_queue_s=timeouts.max_queue_s,
            tools=tools,
            grammar=form.grammar if form else None,
            grammar_param=form.param if form else "response_format",
            memory=_set(self.memory, caller.memory),
        )

    def _check_best_of(self) -> bool:
        """Whether more answers are generated than returned. InvalidRequest for what cannot be."""
        if self.best_of is None:
            return False
        if self.best_of < self.choices:
            raise InvalidRequest(
                f"best_of is {self.best_of}; at least n, which is {self.choices}, is needed",
                param="best_of",
            )
        if self.stream and self.best_of > self.choices:
            raise InvalidRequest(
                "best_of above n is only accepted with stream set to false: the best answers are "
                "known at the end",
                param="best_of",
            )
        return self.best_of > self.choices

    @property
    def _wanted_tier(self) -> ServiceTier | None:
        """The tier that the request asks for; None: it leaves the choice."""
        return None if self.service_tier in (None, "auto") else TIERS[self.service_tier]

    def check(self, ranges: Mapping[str, Range]) -> None:
        """InvalidRequest for a number outside its range (`ranges` or the common ones) and for an
        unknown service tier; UnsupportedParameter for what only OpenAI accepts.
        """
        check_ranges(self, {**RANGES, **ranges})
        if self.service_tier is None or self.service_tier in TIERS:
            return
        accepted = f"accepted are {', '.join(TIERS)}"
        if self.service_tier in REFUSED_TIERS:
            raise UnsupportedParameter(
                f"service_tier {self.service_tier!r} is not supported by this gateway; {accepted}",
                param="service_tier",
            )
        raise InvalidRequest(
            f"service_tier is {self.service_tier[:40]!r}; {accepted}", param="service_tier"
        )


def _set(value: T | None, default: T) -> T:
    return default if value is None else value


def _bias(given: Mapping[str, float]) -> dict[int, float]:
    """Logit bias by token id. InvalidRequest for an invalid id or value, or too many tokens."""
    if len(given) > MAX_BIASED_TOKENS:
        raise InvalidRequest(
            f"logit_bias names {len(given)} tokens; at most {MAX_BIASED_TOKENS} are accepted",
            param="logit_bias",
        )
    for name, value in given.items():
        if not (name.isascii() and name.isdecimal() and len(name) <= MAX_TOKEN_ID_DIGITS):
            raise InvalidRequest(
                f"logit_bias names {name[:MAX_TOKEN_ID_DIGITS]!r}; accepted are token ids, such as "
                "'42'",
                param="logit_bias",
            )
        BIAS.check(f"logit_bias of token {name}", value, param="logit_bias")
    return {int(name): value for name, value in given.items()}


class PromptTokensDetails(Struct, frozen=True):
    """The tokens of the prompt that were not computed, since those of an equal prefix were kept."""

    cached_tokens: int = 0


class Usage(Struct):
    """Prompt tokens and generated tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()

    @classmethod
    def of(cls, *states: RequestState) -> "Usage":
        """The sum over these choices; choices of one request share its prompt."""
        read = sum(len(state.prompt) for state in states if state.choice == 0)
        written = sum(len(state.tokens) for state in states)
        cached = sum(state.cached_tokens or 0 for state in states if state.choice == 0)
        return cls(read, written, read + written, PromptTokensDetails(cached))


def created(state: RequestState) -> int:
    """OpenAI's `created`: the request's arrival in seconds since 1970."""
    return int(state.arrived_at.timestamp())


def piece_logprobs(state: RequestState, piece: Piece, form: Callable[[Piece], T]) -> T | None:
    """A piece's log probabilities in an endpoint's format; None unless requested."""
    return None if state.request.logprobs is None else form(piece)


class ChoiceEnd(TypedDict):
    """What ended a choice, if its own end did not: fields of the choice in an answer."""

    limited_by: str | UnsetType
    stop_reason: int | str | UnsetType


def end_of(state: RequestState) -> ChoiceEnd:
    """What ended a choice; UNSET if nothing but its own end or its length did."""
    reason = state.stop_reason
    return {
        "limited_by": state.limited_by or UNSET,
        "stop_reason": UNSET if reason is None else reason,
    }
