"""Admission by a sum of pages: each sequence counts with what is reserved for it.

S³ (arXiv 2306.06000) reserves the predicted length; most servers before it the longest possible;
vLLM (arXiv 2309.06180) nothing beyond the pages in use. Time plays no part: what one sequence
gives back before another needs it is not seen.
"""

from collections.abc import Sequence
from math import ceil
from typing import Final, Literal, TypeAlias

from gateway.scheduling.admission.interface import NO_CAPACITY, Capacity
from gateway.scheduling.requests import Quantiles, QueuedRequest, RunningSequence

Reservation: TypeAlias = Literal["reserved", "maximum", "held"]
REFRESH: Final = 8  # steps


class SumOfReservations:
    """Admits while the pages reserved for all sequences fit the pool.

    `reserved`: prompt and the predicted 0.9 quantile, doubled where outgrown. `maximum`: prompt
    and max_tokens. `held`: the pages in use, so that the engine has to preempt when they grow.
    """

    def __init__(self, reservation: Reservation) -> None:
        self.capacity = NO_CAPACITY
        self._reservation = reservation
        self._joined: dict[str, int] = {}  # pages
        self._pages = 0
        self._steps = 0
        self._resized = False

    @property
    def empty(self) -> bool:
        """Whether nothing runs."""
        return not self._joined

    @property
    def stale(self) -> bool:
        """Whether a refresh is due before the next admission."""
        grown = self._reservation != "maximum" and self._steps >= REFRESH
        return grown or self._resized

    def refresh(self, running: Sequence[RunningSequence]) -> None:
        """Begin anew from what runs now."""
        self._joined = {sequence.id: self._pages_of(sequence) for sequence in running}
        self._pages = sum(self._joined.values())
        self._steps = 0
        self._resized = False

    def advance(self, steps: int) -> None:
        """So many steps of the engine have passed."""
        self._steps += steps

    def leave(self, request_id: str) -> None:
        """A sequence left the engine; nothing happens where it is unknown."""
        self._pages -= self._joined.pop(request_id, 0)

    def admit(self, requests: Sequence[QueuedRequest]) -> int:
        """How many of the requests, in order, can join; they have then joined."""
        for place, request in enumerate(requests):
            alone = self.empty and self.capacity.holds(request)
            pages = self._pages_of(request.started())
            if not alone and self._pages + pages > self.capacity.pages:
                return place
            self._join(request.id, pages)
        return len(requests)

    def force(self, request: QueuedRequest) -> None:
        """Let a request join whether it fits or not."""
        self._join(request.id, self._pages_of(request.started()))

    def reserve(self, request: QueuedRequest) -> int:
        """The tokens that are counted with."""
        return self._tokens(request.started())

    def resize(self, capacity: Capacity) -> None:
        """Admit to a pool of this size from now on."""
        self._resized = bool(self._joined)
        self.capacity = capacity

    def assume(self, quantiles: Quantiles | None) -> None:
        """Nothing changes: a reservation is what was predicted."""

    def observed(self, ended: int, preempted: int) -> None:
        """Nothing is tuned."""

    def _join(self, request_id: str, pages: int) -> None:
        self._joined[request_id] = pages
        self._pages += pages

    def _pages_of(self, sequence: RunningSequence) -> int:
        return self.capacity.pages_for(sequence.prompt_tokens + self._tokens(sequence))

    def _tokens(self, sequence: RunningSequence) -> int:
        """Tokens of generation reserved for a sequence."""
        if self._reservation == "maximum":
            return sequence.max_tokens
        if self._reservation == "held":
            return sequence.generated + 1
        reserved = max(ceil(sequence.quantiles[4]), 1)
        while reserved <= sequence.generated:
            reserved *= 2
        return min(reserved, sequence.max_tokens)
