"""What a client asks for, and what of it the predictor looks at."""

from typing import Final, Literal, TypeAlias

from msgspec import Struct

from engine.protocol import Sampling
from gateway.errors import ContextLengthExceeded, InvalidRequest
from gateway.tenancy.authentication import Caller

INSTRUCTING: Final = ("system", "developer")

ServiceTier: TypeAlias = Literal["default", "flex", "priority"]
URGENCY: Final[dict[str, float]] = {"flex": 0.25, "default": 1.0, "priority": 4.0}


class Message(Struct, frozen=True):
    """One turn of a conversation, as plain text."""

    role: str
    content: str


class GenerationRequest(Struct, frozen=True, kw_only=True):
    """A checked request: `choices` answers to a conversation, or to a prompt as it stands.

    `sampling` is without a seed: every choice has one of its own. The whole answer is wanted within
    `deadline_s` seconds of its arrival; it waits `max_queue_s` seconds at most.
    """

    caller: Caller
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    end_user: str | None = None
    max_tokens: int | None = None
    sampling: Sampling = Sampling(temperature=1.0)
    seed: int | None = None
    choices: int = 1
    stops: tuple[str, ...] = ()
    streamed: bool = False
    service_tier: ServiceTier = "default"
    deadline_s: float | None = None
    max_queue_s: float | None = None

    @property
    def urgency(self) -> float:
        """How many times a second of waiting counts, and a token is charged to the tenant."""
        return URGENCY[self.service_tier]

    @property
    def param(self) -> str:
        """The parameter that carries the text."""
        return "messages" if self.prompt is None else "prompt"

    @property
    def characters(self) -> int:
        """How much text there is to encode."""
        if isinstance(self.prompt, str):
            return len(self.prompt)
        registered = len(self.caller.instruction or "")
        return registered + sum(len(message.content) for message in self.messages)

    @property
    def instruction(self) -> str:
        """The app's fixed text: the system messages, or the app's registered instruction.

        A prompt as it stands has none: nothing is put before it.
        """
        if self.prompt is not None:
            return ""
        given = [message.content for message in self.messages if message.role in INSTRUCTING]
        return "\n".join(given) if given else self.caller.instruction or ""

    @property
    def user_input(self) -> str:
        """What the user wrote last; the prompt, where it is text."""
        if self.prompt is not None:
            return self.prompt if isinstance(self.prompt, str) else ""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    def conversation(self) -> list[dict[str, str]]:
        """The messages for the chat template, the registered instruction first where none came."""
        turns = [{"role": m.role, "content": m.content} for m in self.messages]
        if self.instruction and not any(m.role in INSTRUCTING for m in self.messages):
            turns.insert(0, {"role": "system", "content": self.instruction})
        return turns


def answer_limit(
    prompt_tokens: int, wanted: int | None, context_tokens: int, *, param: str = "messages"
) -> int:
    """Most tokens the answer may have: what was asked for, else what the context leaves.

    ContextLengthExceeded where prompt and answer cannot fit, naming `param`; InvalidRequest
    below 1.
    """
    if wanted is not None and wanted < 1:
        raise InvalidRequest(f"max_tokens is {wanted}; at least 1 is needed", param="max_tokens")
    room = context_tokens - prompt_tokens
    if room < max(1, wanted or 1):
        asked = f" and max_tokens asks for {wanted} more" if wanted else ""
        raise ContextLengthExceeded(
            f"the model's context is {context_tokens} tokens; the prompt takes "
            f"{prompt_tokens}{asked}: shorten it or lower max_tokens",
            param=param,
        )
    return wanted or room
