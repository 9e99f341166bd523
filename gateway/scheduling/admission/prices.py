"""What a produced token and a preemption are worth, in seconds of the engine.

An engine with a queue in front of it loses seconds in two ways. Memory left idle: a step takes
little longer with one sequence more, so its token costs less than a token does on average. A
preemption: what the sequence held is computed again, or copied out and back, and before that its
memory stands idle until so much is free that it can resume.
"""

from math import inf
from typing import Annotated, NamedTuple, Protocol, TypeAlias, TypeVar

from msgspec import Meta, Struct

from gateway.quantiles import Floats

Steps = TypeVar("Steps", float, Floats)
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


class Preemption(NamedTuple):
    """What a preemption takes of the engine: seconds if it is now, and more with each step."""

    now_s: float
    step_s: float

    def seconds(self, steps: Steps) -> Steps:
        """Its price after this number of steps."""
        return self.now_s + self.step_s * steps

    def break_even_steps(self, produced_s: Seconds) -> float:
        """The steps that a request has to run to be worth the preemption at their end.

        The h at which produced · h = now + step · h; infinite if no h is enough.
        """
        gain_s = produced_s - self.step_s
        if gain_s > 0:
            return self.now_s / gain_s
        return inf if self.now_s or self.step_s else 0.0


class Prices(NamedTuple):
    """In seconds of the engine: a token that one more sequence produces, a preempted one's loss."""

    produced_s: float
    lost_s: float

    def preemption(self, tokens: float, size: float = 0.0, end_steps: float = 0.0) -> Preemption:
        """The price of preempting a sequence that holds this number of KV tokens.

        `size` is its memory over that of the mean sequence, and one ends every `end_steps`. So
        much memory comes free over size · end_steps steps, or twice that, as the others grow by
        about half of it; on average half of it is missing for as long: end_steps · size² tokens.
        """
        idle_s = self.produced_s * end_steps * size**2
        return Preemption(self.lost_s * tokens + idle_s, self.lost_s)


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
