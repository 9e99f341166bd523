"""What a produced and a preempted token are worth, in seconds of the engine.

An engine with a queue in front of it loses seconds in two ways. Memory left idle: a step takes
little longer with one sequence more, so its token costs less than a token does on average. A
preemption: what the sequence held is computed again, or copied out and back.
"""

from math import inf
from typing import Annotated, NamedTuple, Protocol, TypeAlias

from msgspec import Meta, Struct

Seconds: TypeAlias = Annotated[float, Meta(ge=0)]


class StepTime(Protocol):
    """The time of an engine's steps."""

    def seconds(
        self, prefill_tokens: int, sequences: int, kv_tokens: float, prompt_reads: float = 0.0
    ) -> float:
        """Seconds of a step: prompt tokens computed, decoding sequences, KV tokens they read.

        `prompt_reads` is the KV tokens read by prompt tokens, each those before it, summed.
        """


class LinearStepTime(Struct, frozen=True):
    """A step time that is linear in what the step computes; coefficients in seconds."""

    step_s: Seconds
    prompt_token_s: Seconds
    sequence_s: Seconds
    kv_token_s: Seconds
    prompt_read_s: Seconds = 0.0

    def seconds(
        self, prefill_tokens: int, sequences: int, kv_tokens: float, prompt_reads: float = 0.0
    ) -> float:
        """Seconds of a step: prompt tokens computed, decoding sequences, KV tokens they read."""
        return (
            self.step_s
            + self.prompt_token_s * prefill_tokens
            + self.sequence_s * sequences
            + self.kv_token_s * kv_tokens
            + self.prompt_read_s * prompt_reads
        )

    def prefill_s(self, prompt_tokens: int) -> float:
        """Seconds that computing a prompt adds to the steps in which it is computed."""
        return prompt_tokens * (self.prompt_token_s + self.prompt_read_s * prompt_tokens / 2)


class EngineCost(Struct, frozen=True):
    """The measured cost of an engine: its step time, and the most tokens of a step.

    `swap_token_s` is the time to copy a preempted token's KV to the host, or back; None if it is
    always computed again. It is copied where that costs less.
    """

    step_time: StepTime
    step_tokens: int
    swap_token_s: float | None = None


class Prices(NamedTuple):
    """In seconds of the engine: a token that one more sequence produces, a preempted one's loss."""

    produced_s: float
    lost_s: float

    def break_even_steps(self, prompt_tokens: int) -> float:
        """The steps that a request has to run to be worth its preemption at their end.

        The h at which produced · h = lost · (prompt + h); infinite if a token is worth no more than
        its recomputation.
        """
        gain_s = self.produced_s - self.lost_s
        if gain_s > 0:
            return self.lost_s * prompt_tokens / gain_s
        return inf if self.lost_s else 0.0


def prices(cost: EngineCost, running: int, kv_tokens: float) -> Prices:
    """The prices next to `running` sequences that hold `kv_tokens`.

    Produced: the time of a step per token, less what the step takes longer with a sequence more.
    Lost: what steps take longer for a prompt token at the mean depth, and what the sequence itself
    does not produce in them; or two copies, if they cost less.
    """
    count = max(running, 1)
    context = kv_tokens / count
    step_s = cost.step_time.seconds(0, count, kv_tokens)
    wider_s = cost.step_time.seconds(0, count + 1, kv_tokens + context)
    produced_s = max(step_s / count - (wider_s - step_s), 0.0)
    chunk = max(cost.step_tokens - count, 1)
    prefill_s = cost.step_time.seconds(chunk, count, kv_tokens, chunk * context / 2)
    computed_s = (max(prefill_s - step_s, 0.0) + produced_s) / chunk
    copied_s = inf if cost.swap_token_s is None else 2 * cost.swap_token_s
    return Prices(produced_s, min(computed_s, copied_s))
