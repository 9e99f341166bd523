"""How much background work one step of a simulated engine takes in.

The engine's rule (`engine.step.background`), with the cost of a step known instead of learned.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final

from msgspec import Struct

from gateway.replay.cost.model import StepCost

MAX_HELD_STEPS: Final = 16  # the last of them takes background work in


class StepWork(Struct, frozen=True):
    """What a step computes: prompt tokens, decoding sequences, and the KV tokens both read."""

    prompt_tokens: int
    sequences: int
    kv_tokens: int
    prompt_reads: float

    def seconds(self, cost: StepCost) -> float:
        """The time of the step."""
        return cost.seconds(self.prompt_tokens, self.sequences, self.kv_tokens, self.prompt_reads)


class StepAllowance:
    """What background work may add to a step so that it takes at most `factor` times as long.

    With `due`, a row or `least_prompt` prompt tokens are granted whatever they take.
    """

    def __init__(
        self, cost: StepCost, factor: float, others: StepWork, *, due: bool, least_prompt: int
    ) -> None:
        self._cost = cost
        self._work = others
        self._max_s = factor * others.seconds(cost)
        self._due = due
        self._least_prompt = least_prompt

    def rows(self, kv_tokens: Sequence[int]) -> int:
        """How many of these decoding sequences, in order; each reads this many KV tokens."""
        reads = [0, *accumulate(kv_tokens)]

        def work(rows: int) -> StepWork:
            before = self._work
            return StepWork(
                before.prompt_tokens,
                before.sequences + rows,
                before.kv_tokens + reads[rows],
                before.prompt_reads,
            )

        granted = self._most(len(kv_tokens), work)
        if self._due and kv_tokens:
            granted = max(granted, 1)
            self._due = False
        self._work = work(granted)
        return granted

    def prompt(self, start: int, tokens: int) -> int:
        """How many of `tokens` prompt tokens that follow `start` others."""

        def work(added: int) -> StepWork:
            before = self._work
            return StepWork(
                before.prompt_tokens + added,
                before.sequences,
                before.kv_tokens,
                before.prompt_reads + added * (start + added / 2),
            )

        granted = self._most(tokens, work)
        if self._due:
            granted = max(granted, min(tokens, self._least_prompt))
            self._due = self._due and not granted
        self._work = work(granted)
        return granted

    def _most(self, most: int, work: Callable[[int], StepWork]) -> int:
        """The largest number, at most `most`, with which the step is short enough."""
        if work(most).seconds(self._cost) <= self._max_s:
            return most
        amounts = range(1, most + 1)
        return bisect_right(amounts, self._max_s, key=lambda n: work(n).seconds(self._cost))
