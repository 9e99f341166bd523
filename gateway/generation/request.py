"""A checked generation request, and the parts of it that the length predictor reads."""

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

from msgspec import Struct

from engine.protocol import Grammar, KvPlacement, Sampling
from gateway.errors import ContextLengthExceeded, InvalidRequest, KeyForbids, shortened
from gateway.generation.text.prompt_options import PromptOptions
from gateway.generation.tools.definition import ToolCall, ToolUse
from gateway.history.record import BATCH_TIER
from gateway.prediction.messages import FREE, Form
from gateway.scheduling.requests import Lane, SharedPrefix
from gateway.tenancy.authentication import Caller

INSTRUCTION_ROLES: Final = ("system", "developer")

GREEDY: Final = Sampling()
# Fields of `Sampling` by their names in the API; every engine has temperature, top_p and seed.
SAMPLING_PARAMETERS: Final = {
    "top_k": "top_k",
    "min_p": "min_p",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "repetition_penalty": "repetition_penalty",
    "logit_bias": "logit_bias",
    "allowed": "allowed_token_ids",
    "min_tokens": "min_tokens",
}

ServiceTier: TypeAlias = Literal["default", "flex", "priority"]
TIER_ORDER: Final[tuple[ServiceTier, ...]] = ("default", "flex", "priority")
URGENCY: Final[dict[str, float]] = {"flex": 0.25, "default": 1.0, "priority": 4.0}


class Message(Struct, frozen=True):
    """One turn of a conversation, as plain text; the assistant's may have calls of functions.

    A turn of the role `tool` is the result of the call `tool_call_id`, of the function `name`.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def characters(self) -> int:
        """Number of characters to encode."""
        calls = sum(len(call.name) + len(call.arguments) for call in self.tool_calls)
        return len(self.content) + calls

    def to_template(self) -> dict[str, Any]:
        """The turn in the form that chat templates read."""
        turn: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            turn["tool_calls"] = [call.to_template() for call in self.tool_calls]
        if self.tool_call_id is not None:
            turn["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            turn["name"] = self.name
        return turn


class RecordKey(Struct, frozen=True):
    """What history knows a request by. A line of a job has the same one in every attempt."""

    id: UUID
    arrived_at: datetime


class Ceiling(Struct, frozen=True):
    """What a client does not want exceeded at the predicted 90 % quantile; None: any.

    `answer_tokens` are of each answer, `cost` is of the whole request.
    """

    answer_tokens: int | None = None
    cost: Decimal | None = None


class Stops(Struct, frozen=True):
    """What ends an answer besides its limit: strings, token ids, and the model's own end.

    `shown`: the string or token that ended it is part of the answer. `ignore_eos`: the model's own
    end does not end it.
    """

    strings: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()
    shown: bool = False
    ignore_eos: bool = False

    @property
    def none(self) -> bool:
        """Whether only the limit ends the answer."""
        return self.ignore_eos and not self.strings and not self.token_ids


class GenerationRequest(Struct, frozen=True, kw_only=True):
    """A checked request for `choices` answers to a conversation or to a raw prompt.

    Of these the client gets the `kept` ones with the highest mean log probability, all if None.
    `logprobs` is how many likely tokens the client wants for each of the answer; `sampling` has
    them too where answers are ranked. It has no seed: every choice has its own, and no bad words:
    they are encoded with the prompt. It arrived at `received_s`, monotonic, or as it is started;
    the whole answer is due within `deadline_s` seconds of that, and the request waits at most
    `max_queue_s`. `limit_param` is the API parameter that set `max_tokens`, `grammar_param` the one
    that set `grammar`, which limits the content of an answer that may call `tools`. A line of a
    batch job is in the lane `batch`; `prefix` is what its prompt has in common with the others of
    its group. `memory` is where its keys and values may be if the device does not hold them.
    """

    caller: Caller
    messages: tuple[Message, ...] = ()
    prompt: str | tuple[int, ...] | None = None
    end_user: str | None = None
    max_tokens: int | None = None
    limit_param: str = "max_tokens"
    sampling: Sampling = Sampling(temperature=1.0)
    seed: int | None = None
    choices: int = 1
    kept: int | None = None
    logprobs: int | None = None
    stops: Stops = Stops()
    bad_words: tuple[str, ...] = ()
    prompt_options: PromptOptions = PromptOptions()
    streamed: bool = False
    service_tier: ServiceTier = "default"
    received_s: float | None = None
    deadline_s: float | None = None
    max_queue_s: float | None = None
    ceiling: Ceiling | None = None
    lane: Lane = "interactive"
    prefix: SharedPrefix | None = None
    tools: ToolUse | None = None
    grammar: Grammar | None = None
    grammar_param: str = "response_format"
    memory: KvPlacement = "device"

    @property
    def form(self) -> Form:
        """The form of its answers. One that may call functions but need not is free."""
        if self.tools is not None and self.tools.required:
            return "tool"
        return FREE if self.grammar is None else "json"

    @property
    def recorded_tier(self) -> str:
        """The tier in records and metrics: lines of jobs have one of their own."""
        return BATCH_TIER if self.lane == "batch" else self.service_tier

    @property
    def urgency(self) -> float:
        """Weight of the tier: of a second of waiting, and of a token charged to the tenant."""
        return URGENCY[self.service_tier]

    @property
    def continues(self) -> bool:
        """Whether the answer continues a text, a prompt's or the final message's."""
        return self.prompt is not None or self.prompt_options.continues_final

    @property
    def param(self) -> str:
        """The API parameter that carries the text."""
        return "messages" if self.prompt is None else "prompt"

    @property
    def characters(self) -> int:
        """Number of characters to encode."""
        if isinstance(self.prompt, str):
            return len(self.prompt)
        registered = len(self.caller.instruction or "")
        tools = 0 if self.tools is None else self.tools.size
        return registered + tools + sum(message.characters for message in self.messages)

    def least_tokens(self, max_tokens: int) -> int:
        """The tokens that an answer has at least, if it is not cut off."""
        return max_tokens if self.stops.none else min(self.sampling.min_tokens, max_tokens)

    @property
    def instruction(self) -> str:
        """The app's fixed text: its system text, and names and descriptions of its tools.

        A raw prompt has none.
        """
        if self.prompt is not None:
            return ""
        texts = [self._system_text, "" if self.tools is None else self.tools.summary]
        return "\n".join(filter(None, texts))

    @property
    def _system_text(self) -> str:
        """The system messages, else the app's registered instruction."""
        given = [message.content for message in self.messages if message.role in INSTRUCTION_ROLES]
        return "\n".join(given) if given else self.caller.instruction or ""

    @property
    def user_input(self) -> str:
        """The last user message, or a raw prompt's text."""
        if self.prompt is not None:
            return self.prompt if isinstance(self.prompt, str) else ""
        return next((m.content for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def registered(self) -> bool:
        """Whether the conversation begins with the app's registered instruction."""
        given = self.prompt is not None or any(m.role in INSTRUCTION_ROLES for m in self.messages)
        return bool(self.caller.instruction) and not given

    def parameters(self) -> Iterator[str]:
        """The API parameters of sampling that have an effect and that not every engine has."""
        for field, name in SAMPLING_PARAMETERS.items():
            if getattr(self.sampling, field) != getattr(GREEDY, field):
                yield name
        given = {
            "logprobs": self.sampling.logprobs is not None,
            "bad_words": bool(self.bad_words),
            "stop_token_ids": bool(self.stops.token_ids),
            "ignore_eos": self.stops.ignore_eos,
        }
        yield from (name for name, is_given in given.items() if is_given)

    def conversation(self) -> list[dict[str, Any]]:
        """The messages for the chat template; the registered instruction if none has its role."""
        turns = [message.to_template() for message in self.messages]
        if self.registered:
            turns.insert(0, {"role": "system", "content": self._system_text})
        return turns


def permitted_tier(caller: Caller, wanted: ServiceTier | None) -> ServiceTier:
    """The tier of a request: `wanted`, else `default` or the next that its key allows.

    KeyForbids if the key does not allow it.
    """
    allowed = caller.service_tiers
    if wanted is None:
        return next((tier for tier in TIER_ORDER if allowed is None or tier in allowed), "default")
    if allowed is None or wanted in allowed:
        return wanted
    raise KeyForbids(
        f"this API key does not allow the service tier {wanted!r}; allowed: {', '.join(allowed)}",
        param="service_tier",
    )


def check_deadline(caller: Caller, deadline_s: float | None, *, param: str) -> None:
    """KeyForbids if the key does not allow a deadline that is so early."""
    least = caller.min_deadline_s
    if least is not None and deadline_s is not None and deadline_s < least:
        raise KeyForbids(
            f"this API key allows no deadline below {least * 1000:g} ms; {param} is "
            f"{deadline_s * 1000:g}",
            param=param,
        )


def answer_limit(
    prompt_tokens: int,
    wanted: int | None,
    context_tokens: int,
    *,
    param: str = "messages",
    limit_param: str = "max_tokens",
) -> int:
    """Maximum tokens of the answer: `wanted`, else the rest of the context.

    ContextLengthExceeded names `param` if the prompt leaves no room in the context, `limit_param`
    if it leaves less than `wanted`; InvalidRequest if `wanted` is below 1.
    """
    if wanted is not None and wanted < 1:
        raise InvalidRequest(
            f"{limit_param} is {shortened(str(wanted))}; at least 1 is needed", param=limit_param
        )
    room = context_tokens - prompt_tokens
    if room < 1:
        raise ContextLengthExceeded(
            f"the model's context is {context_tokens} tokens; the prompt takes {prompt_tokens}: "
            "shorten it",
            param=param,
        )
    if wanted is not None and wanted > room:
        raise ContextLengthExceeded(
            f"{limit_param} is {shortened(str(wanted))}; at most {room} fits, since the prompt "
            f"takes {prompt_tokens} of the {context_tokens} tokens of the model's context",
            param=limit_param,
        )
    return wanted or room
