"""The simple admission rule, and control of the default: the future KV peak at each one's P90."""

from collections.abc import Sequence
from itertools import accumulate
from math import ceil
from typing import Final

from msgspec import Struct

from gateway.scheduling.capacity import NO_CAPACITY, Capacity
from gateway.scheduling.remaining import Lengths
from gateway.scheduling.waiting import Quantiles, Running, Waiting

LEVEL: Final = 0.9
REFRESH: Final = 8  # steps


class Held(Struct, frozen=True):
    """KV tokens a sequence holds now, and the tokens it will still generate."""

    held: int
    remaining: int

    def after(self, steps: int) -> "Held":
        """So many steps later; it is taken to run for one more at least."""
        return Held(self.held + steps, max(self.remaining - steps, 1))


def future_peak(running: Sequence[Held]) -> int:
    """Most KV tokens held at once while `running` finishes and nothing joins; 0 when empty.

    LightLLM's past-future scheduler (arXiv 2507.10150, ASPLOS '25): the peak lies where one ends.
    """
    order = sorted(running, key=lambda sequence: sequence.remaining, reverse=True)
    held = accumulate(sequence.held for sequence in order)
    ends = enumerate(zip(held, order, strict=True), 1)
    return max((tokens + n * sequence.remaining for n, (tokens, sequence) in ends), default=0)


def held_at_upper(running: Sequence[Running], level: float = LEVEL) -> list[Held]:
    """Each sequence as if it ran to the `level` quantile of its length, given what it generated."""
    remaining = Lengths.of(running).remaining_quantile(level)
    return [
        Held(sequence.prompt_tokens + sequence.generated, round(tokens))
        for sequence, tokens in zip(running, remaining.tolist(), strict=True)
    ]


class UpperPeak:
    """Admits what fits if every sequence runs to the 0.9 quantile of its length.

    Each sequence counts with most of a page more than its tokens: the last page is seldom full.
    """

    def __init__(self) -> None:
        self.capacity = NO_CAPACITY
        self._joined: dict[str, Held] = {}
        self._steps = 0

    @property
    def empty(self) -> bool:
        """Whether nothing runs."""
        return not self._joined

    @property
    def stale(self) -> bool:
        """Whether a refresh is due before the next admission."""
        return self._steps >= REFRESH

    def refresh(self, running: Sequence[Running]) -> None:
        """Begin anew from what runs now."""
        held = held_at_upper(running)
        self._joined = {
            sequence.id: Held(each.held + self.capacity.page_tokens - 1, each.remaining)
            for sequence, each in zip(running, held, strict=True)
        }
        self._steps = 0

    def advance(self, steps: int) -> None:
        """So many steps of the engine have passed."""
        self._joined = {key: held.after(steps) for key, held in self._joined.items()}
        self._steps += steps

    def leave(self, request_id: str) -> None:
        """A sequence left the engine; nothing happens where it is unknown."""
        self._joined.pop(request_id, None)

    def admit(self, requests: Sequence[Waiting]) -> int:
        """How many of the requests, in order, can join; they have then joined."""
        for place, request in enumerate(requests):
            alone = self.empty and self.capacity.holds(request)
            together = [*self._joined.values(), self._held(request)]
            if not alone and future_peak(together) > self.capacity.tokens:
                return place
            self.force(request)
        return len(requests)

    def force(self, request: Waiting) -> None:
        """Let a request join whether it fits or not."""
        self._joined[request.id] = self._held(request)

    def reserve(self, request: Waiting) -> int:
        """The 0.9 quantile."""
        return max(1, min(ceil(request.upper), request.max_tokens))

    def resize(self, capacity: Capacity) -> None:
        """Admit to a pool of this size from now on."""
        self.capacity = capacity

    def assume(self, quantiles: Quantiles | None) -> None:
        """Nothing changes: a reservation is what was predicted."""

    def observed(self, ended: int, preempted: int) -> None:
        """Nothing is tuned."""

    def _held(self, request: Waiting) -> Held:
        return Held(request.prompt_tokens + self.capacity.page_tokens - 1, self.reserve(request))
