"""How much background work the steps of a simulated engine take in.

The engine's rules (`engine.step.background`), with the cost of a step known instead of learned.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

from msgspec import Struct

from gateway.replay.cost.model import StepCost

MAX_HELD_STEPS: Final = 64  # the last of them takes background work in
SAVED_STEPS: Final = 32  # whose seconds for background work are saved at most
ALONE_FACTOR: Final = 20  # how much more a step of background alone may exceed others' steps
RECENT_STEPS: Final = 32  # of others, over which their time is averaged
RECENT_S: Final = 60.0  # of background alone, after which it takes everything


class StepWork(Struct, frozen=True):
    """What a step computes: prompt tokens, decoding sequences, and the KV tokens both read."""

    prompt_tokens: int
    sequences: int
    kv_tokens: int
    prompt_reads: float

    def seconds(self, cost: StepCost) -> float:
        """The time of the step."""
        return cost.seconds(self.prompt_tokens, self.sequences, self.kv_tokens, self.prompt_reads)


NO_WORK: Final = StepWork(0, 0, 0, 0.0)


class StepAllowance:
    """What background work may add to one step: `left_s` seconds, spent on rows, then on prompts.

    With `due`, the first row or prompt chunk is granted whatever it takes: a row, or `least_prompt`
    tokens. A chunk has at least these, or is the rest of its prompt.
    """

    def __init__(
        self, cost: StepCost, left_s: float, others: StepWork, *, due: bool, least_prompt: int
    ) -> None:
        self.left_s = left_s
        self._cost = cost
        self._work = others
        self._due = due
        self._least_prompt = least_prompt

    def rows(self, kv_tokens: Sequence[int]) -> int:
        """How many of these decoding sequences, in order; each reads this many KV tokens."""
        reads = [0, *accumulate(kv_tokens)]
        before = self._work

        def work(rows: int) -> StepWork:
            return StepWork(
                before.prompt_tokens,
                before.sequences + rows,
                before.kv_tokens + reads[rows],
                before.prompt_reads,
            )

        granted = self._most(len(kv_tokens), work)
        if self._due and kv_tokens:
            granted = max(granted, 1)
        self._spend(granted, work)
        return granted

    def prompt(self, start: int, tokens: int) -> int:
        """How many of `tokens` prompt tokens that follow `start` others."""
        before = self._work

        def work(added: int) -> StepWork:
            return StepWork(
                before.prompt_tokens + added,
                before.sequences,
                before.kv_tokens,
                before.prompt_reads + added * (start + added / 2),
            )

        least = min(tokens, self._least_prompt)
        granted = self._most(tokens, work)
        if granted < least:  # fewer are not worth what a prompt adds to a step
            granted = least if self._due else 0
        self._spend(granted, work)
        return granted

    def _most(self, most: int, work: Callable[[int], StepWork]) -> int:
        """The largest number, at most `most`, that takes no more than what is left."""

        def added_s(amount: int) -> float:
            return work(amount).seconds(self._cost) - before_s

        before_s = self._work.seconds(self._cost)
        if added_s(most) <= self.left_s:
            return most
        return bisect_right(range(1, most + 1), self.left_s, key=added_s)

    def _spend(self, granted: int, work: Callable[[int], StepWork]) -> None:
        if granted:
            after = work(granted)
            self.left_s -= after.seconds(self._cost) - self._work.seconds(self._cost)
            self._work, self._due = after, False


class BackgroundLimits:
    """Limits background work in the steps of one engine, by the time that it adds to them."""

    def __init__(self, cost: StepCost, factor: float, page_tokens: int) -> None:
        self._cost = cost
        self._factor = factor
        self._page_tokens = page_tokens
        self._held_steps = 0  # in a row, without background work
        self._saved_s = 0.0
        self._others_s: float | None = None  # of a step that decodes others, in the mean
        self._alone_s = 0.0  # of steps of background alone since the last step with others
        self._earned_s: float | None = None  # what the step that is composed may spend of savings

    @property
    def due(self) -> bool:
        """Whether the next step must take some in."""
        return self._held_steps + 1 >= MAX_HELD_STEPS

    def with_others(self, others: StepWork, *, prompt: bool) -> StepAllowance:
        """For a step that has this work of others; `prompt`: with more than one prompt token."""
        self._alone_s = 0.0
        self._earned_s = 0.0 if prompt else self._earn(others.seconds(self._cost))
        return StepAllowance(
            self._cost, self._earned_s, others, due=self.due, least_prompt=self._page_tokens
        )

    def alone(self) -> StepAllowance | None:
        """For a step without others; None: it takes everything."""
        self._earned_s = None
        if self._others_s is None or self._alone_s > RECENT_S:
            return None
        limit_s = self._others_s * (1 + ALONE_FACTOR * (self._factor - 1))
        left_s = limit_s - NO_WORK.seconds(self._cost)
        return StepAllowance(self._cost, left_s, NO_WORK, due=True, least_prompt=self._page_tokens)

    def composed(self, allowance: StepAllowance | None, seconds: float, *, worked: bool) -> None:
        """The step has been composed, and takes this long; `worked`: with background work."""
        self._held_steps = 0 if worked else self._held_steps + 1
        if self._earned_s is None:
            self._alone_s += seconds
        elif allowance is not None:
            self._saved_s -= self._earned_s - allowance.left_s

    def _earn(self, seconds: float) -> float:
        """What may be spent in a step that takes `seconds` without background."""
        known_s = seconds if self._others_s is None else self._others_s
        self._others_s = known_s + (seconds - known_s) / RECENT_STEPS
        earned_s = (self._factor - 1) * (NO_WORK.seconds(self._cost) or seconds)
        most_s = SAVED_STEPS * earned_s
        self._saved_s = min(max(self._saved_s, -most_s) + earned_s, most_s)
        return self._saved_s
