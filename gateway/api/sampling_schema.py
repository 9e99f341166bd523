"""What chat and text completions have in common: how to sample, how to answer, what it took."""

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.generation.ask import Ask, Message
from gateway.generation.live import LiveRequest
from gateway.tenancy.authentication import Caller

# Postgres' text holds no NUL.
EndUser: TypeAlias = Annotated[str, Meta(max_length=512, pattern=r"^[^\x00]*$")]
StopString: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
StopStrings: TypeAlias = Annotated[list[StopString], Meta(max_length=4)]


class StreamOptions(Struct):
    """What a stream carries beside the answer."""

    include_usage: bool | None = None


class SamplingRequest(Struct, kw_only=True):
    """The fields both kinds of request have. Unknown fields are ignored, null means unset."""

    model: str
    max_tokens: int | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: StopString | StopStrings | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: EndUser | None = None
    safety_identifier: EndUser | None = None

    @property
    def with_usage(self) -> bool:
        """Whether the stream ends with the tokens used."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampled(
        self,
        caller: Caller,
        *,
        messages: tuple[Message, ...] = (),
        prompt: str | tuple[int, ...] | None = None,
        max_tokens: int | None,
    ) -> Ask:
        """These fields as the service takes them, for a conversation or a prompt."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "stream_options is only accepted with stream set to true", param="stream_options"
            )
        stop = self.stop or ()
        return Ask(
            caller=caller,
            messages=messages,
            prompt=prompt,
            end_user=self.safety_identifier or self.user,
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            stops=(stop,) if isinstance(stop, str) else tuple(stop),
            streamed=bool(self.stream),
        )

    def refuse(self, unsupported: Mapping[str, tuple[object, ...]]) -> None:
        """UnsupportedParameter for a field that is set to anything but its harmless values."""
        for name, harmless in unsupported.items():
            value = getattr(self, name)
            if value is not None and value not in harmless:
                accepted = " or ".join(repr(item) for item in harmless) or "nothing"
                raise UnsupportedParameter(
                    f"{name} is not supported by this model; accepted is {accepted}", param=name
                )


class Usage(Struct):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, *lives: LiveRequest) -> "Usage":
        """What these requests took together."""
        read = sum(len(live.prompt) for live in lives)
        written = sum(len(live.tokens) for live in lives)
        return cls(read, written, read + written)


def created(live: LiveRequest) -> int:
    """OpenAI's `created`: when the request arrived, in seconds since 1970."""
    return int(live.arrived_at.timestamp())
