"""What chat and text completions have in common: how to sample, how to answer, what it took."""

from collections.abc import Callable, Mapping
from typing import Annotated, Final, TypeAlias, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType

from engine.protocol import Sampling
from gateway.api.openai.ranges import Range, check_ranges
from gateway.api.openai.timeouts import ClientTimeouts
from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.request import GenerationRequest, Message, ServiceTier
from gateway.generation.request_state import Piece, RequestState
from gateway.tenancy.authentication import Caller

T = TypeVar("T")

# Postgres' text holds no NUL.
EndUser: TypeAlias = Annotated[str, Meta(max_length=512, pattern=r"^[^\x00]*$")]
StopString: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
StopStrings: TypeAlias = Annotated[list[StopString], Meta(max_length=4)]

# What clients may ask for, and which tier that is; OpenAI's newest clients say `fast` for priority.
TIERS: Final[dict[str, ServiceTier]] = {
    "auto": "default",
    "default": "default",
    "flex": "flex",
    "priority": "priority",
    "fast": "priority",
}
TierName: TypeAlias = Annotated[str, Meta(extra_json_schema={"extra": {"enum": list(TIERS)}})]
PATIENT: Final = ClientTimeouts()

MOST_CHOICES: Final = 8
MOST_BIASED: Final = 1024  # tokens
LONGEST_ID: Final = 9  # digits of a token id
BIAS: Final = Range(-100, 100)
RANGES: Final = {
    "n": Range(1, MOST_CHOICES),
    "temperature": Range(0, 2),
    "top_p": Range(0, 1, open=True),
    "top_k": Range(-1, 1_000_000),
    "min_p": Range(0, 1),
    "presence_penalty": Range(-2, 2),
    "frequency_penalty": Range(-2, 2),
    "repetition_penalty": Range(0, 10, open=True),
}


class StreamOptions(Struct):
    """What a stream carries beside the answer."""

    include_usage: bool | None = None


class SamplingRequest(Struct, kw_only=True):
    """The fields both kinds of request have. Unknown fields are ignored, null means unset.

    `top_k` (-1 or 0: all), `min_p` and `repetition_penalty` are not OpenAI's; vLLM names them so.
    """

    model: str
    max_tokens: int | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: StopString | StopStrings | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: EndUser | None = None
    safety_identifier: EndUser | None = None
    service_tier: TierName | None = None

    @property
    def with_usage(self) -> bool:
        """Whether the stream ends with the tokens used."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def choices(self) -> int:
        """How many answers are wanted."""
        return 1 if self.n is None else self.n

    @property
    def applied_tier(self) -> ServiceTier | UnsetType:
        """The service tier as answers tell it: only where one was asked for."""
        return UNSET if self.service_tier is None else TIERS[self.service_tier]

    def sampled(
        self,
        caller: Caller,
        patience: ClientTimeouts,
        *,
        messages: tuple[Message, ...] = (),
        prompt: str | tuple[int, ...] | None = None,
        max_tokens: int | None,
        logprobs: int | None,
    ) -> GenerationRequest:
        """These fields as the service takes them, for a conversation or a prompt.

        InvalidRequest names what is not accepted.
        """
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "stream_options is only accepted with stream set to true", param="stream_options"
            )
        stop = self.stop or ()
        return GenerationRequest(
            caller=caller,
            messages=messages,
            prompt=prompt,
            end_user=self.safety_identifier or self.user,
            max_tokens=max_tokens,
            sampling=Sampling(
                temperature=_set(self.temperature, 1.0),
                top_k=max(_set(self.top_k, 0), 0),
                top_p=_set(self.top_p, 1.0),
                min_p=_set(self.min_p, 0.0),
                presence_penalty=_set(self.presence_penalty, 0.0),
                frequency_penalty=_set(self.frequency_penalty, 0.0),
                repetition_penalty=_set(self.repetition_penalty, 1.0),
                logit_bias=_bias(self.logit_bias or {}),
                logprobs=logprobs,
            ),
            seed=self.seed,
            choices=self.choices,
            stops=(stop,) if isinstance(stop, str) else tuple(stop),
            streamed=bool(self.stream),
            service_tier=TIERS[self.service_tier or "auto"],
            deadline_s=patience.deadline_s,
            max_queue_s=patience.max_queue_s,
        )

    def check(
        self, unsupported: Mapping[str, tuple[object, ...]], ranges: Mapping[str, Range]
    ) -> None:
        """InvalidRequest for a number outside its range, of these or the common ones, and for an
        unknown service tier.

        UnsupportedParameter for a field that is set to anything but its harmless values.
        """
        check_ranges(self, {**RANGES, **ranges})
        if self.service_tier is not None and self.service_tier not in TIERS:
            raise InvalidRequest(
                f"service_tier is {self.service_tier[:40]!r}; accepted are {', '.join(TIERS)}",
                param="service_tier",
            )
        for name, harmless in unsupported.items():
            value = getattr(self, name)
            if value is not None and value not in harmless:
                accepted = " or ".join(repr(item) for item in harmless) or "nothing"
                raise UnsupportedParameter(
                    f"{name} is not supported by this model; accepted is {accepted}", param=name
                )


def _set(value: T | None, default: T) -> T:
    return default if value is None else value


def _bias(given: Mapping[str, float]) -> dict[int, float]:
    """What is added to the scores of which token ids. InvalidRequest where that makes no sense."""
    if len(given) > MOST_BIASED:
        raise InvalidRequest(
            f"logit_bias names {len(given)} tokens; at most {MOST_BIASED} are accepted",
            param="logit_bias",
        )
    for name, value in given.items():
        if not (name.isascii() and name.isdecimal() and len(name) <= LONGEST_ID):
            raise InvalidRequest(
                f"logit_bias names {name[:LONGEST_ID]!r}; accepted are token ids, such as '42'",
                param="logit_bias",
            )
        BIAS.check(f"logit_bias of token {name}", value, param="logit_bias")
    return {int(name): value for name, value in given.items()}


class Usage(Struct):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, *lives: RequestState) -> "Usage":
        """What these requests took together; choices of one request share its prompt."""
        read = sum(len(live.prompt) for live in lives if live.choice == 0)
        written = sum(len(live.tokens) for live in lives)
        return cls(read, written, read + written)


def created(live: RequestState) -> int:
    """OpenAI's `created`: when the request arrived, in seconds since 1970."""
    return int(live.arrived_at.timestamp())


def scored(live: RequestState, piece: Piece, form: Callable[[Piece], T]) -> T | None:
    """A piece's log probabilities in an endpoint's form; None where they were not asked for."""
    return None if live.ask.sampling.logprobs is None else form(piece)
