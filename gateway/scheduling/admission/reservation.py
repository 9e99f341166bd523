"""Admission by a sum of reserved pages, one reservation per sequence.

S³ (arXiv 2306.06000) reserves the predicted length, most servers before it the maximum length,
vLLM (arXiv 2309.06180) only the pages in use. The sum ignores time: it does not see that one
sequence frees pages before another needs them.
"""

from collections.abc import Sequence
from math import ceil
from typing import Final, Literal, TypeAlias

from gateway.quantiles import P90
from gateway.scheduling.admission.interface import NO_CAPACITY, Capacity
from gateway.scheduling.admission.ledger import SharedPrefixes, prefix_pages
from gateway.scheduling.admission.prices import EngineCost
from gateway.scheduling.requests import (
    Quantiles,
    QueuedRequest,
    RunningSequence,
    SharedPrefix,
)

ReservationRule: TypeAlias = Literal["reserved", "maximum", "held"]
REFRESH_STEPS: Final = 8  # after which a refresh is due


class SumOfReservations:
    """Admits while the pages reserved for all sequences fit the pool.

    `reserved`: prompt and the predicted 0.9 quantile, doubled when a sequence outgrows it.
    `maximum`: prompt and max_tokens. `held`: the pages in use; when they grow beyond the pool, the
    engine preempts.
    """

    def __init__(self, reservation: ReservationRule) -> None:
        self.capacity = NO_CAPACITY
        self._reservation = reservation
        self._joined: dict[str, int] = {}  # pages
        self._pages = 0  # own pages and those of prefixes
        self._prefixes = SharedPrefixes()
        self._steps = 0
        self._outdated = False

    @property
    def empty(self) -> bool:
        """Whether nothing runs."""
        return not self._joined

    @property
    def stale(self) -> bool:
        """Whether a refresh is due before the next admission."""
        grown = self._reservation != "maximum" and self._steps >= REFRESH_STEPS
        return grown or self._outdated

    def refresh(self, running: Sequence[RunningSequence]) -> None:
        """Start again from the sequences that run now."""
        self._joined = {sequence.id: self._pages_of(sequence) for sequence in running}
        self._pages = sum(self._joined.values())
        self._prefixes.reset(running)
        if self._prefixes:
            self._pages += self._prefixes.pages(self.capacity.page_tokens)
        self._steps = 0
        self._outdated = False

    def outdate(self) -> None:
        """Predictions of running sequences have changed: a refresh is due if anything runs."""
        self._outdated = self._outdated or bool(self._joined)

    def advance(self, steps: int) -> None:
        """The engine has run this number of steps since the last call."""
        self._steps += steps

    def leave(self, request_id: str) -> None:
        """A sequence left the engine; an unknown id is ignored."""
        self._pages -= self._joined.pop(request_id, 0)
        if self._prefixes:
            left = self._prefixes.leave(request_id)
            self._pages -= self._missing(left)

    def admit(self, requests: Sequence[QueuedRequest]) -> int:
        """Admit requests in order until one does not fit; returns how many were admitted."""
        for index, request in enumerate(requests):
            pages = self._pages_of(request.started())
            fits = self._pages + pages + self._missing(request.prefix) <= self.capacity.pages
            alone = self.empty and self._fits_alone(request)
            if not alone and not (fits and self.capacity.allows(len(self._joined))):
                return index
            self._join(request, pages)
        return len(requests)

    def force(self, request: QueuedRequest) -> None:
        """Admit a request whether it fits or not."""
        self._join(request, self._pages_of(request.started()))

    def pin(self, prefix: SharedPrefix) -> None:
        """Count a prefix until `unpin`, with or without members."""
        self._pages += self._missing(prefix)
        self._prefixes.pin(prefix)

    def unpin(self, prefix_id: str) -> None:
        """Count a prefix only while a member runs; ignored if it is not pinned."""
        prefix = self._prefixes.pinned.get(prefix_id)
        if prefix is not None:
            self._prefixes.unpin(prefix_id)
            self._pages -= self._missing(prefix)

    def reserve(self, request: QueuedRequest) -> int:
        """The tokens of generation in the reservation."""
        return self._tokens(request.started())

    def resize(self, capacity: Capacity) -> None:
        """Set the size of the pool."""
        self._outdated = bool(self._joined)
        self.capacity = capacity
        if not self._joined:
            self._pages = self._prefixes.pages(capacity.page_tokens)

    def assume(self, quantiles: Quantiles | None) -> None:
        """Ignored: reservations use the predicted quantiles."""

    def price(self, cost: EngineCost | None) -> None:
        """Ignored: memory is counted, not weighed."""

    def _join(self, request: QueuedRequest, pages: int) -> None:
        self._joined[request.id] = pages
        self._pages += pages
        if request.prefix is not None:
            self._pages += self._missing(request.prefix)
            self._prefixes.join(request.id, request.prefix)

    def _missing(self, prefix: SharedPrefix | None) -> int:
        return self._prefixes.missing_pages(prefix, self.capacity.page_tokens)

    def _fits_alone(self, request: QueuedRequest) -> bool:
        """Whether a request fits the pool at its maximum length, next to other prefixes' pins."""
        pinned = self._prefixes.pinned_pages(self.capacity.page_tokens, without=request.prefix)
        return self.capacity.max_pages(request) + pinned <= self.capacity.pages

    def _pages_of(self, sequence: RunningSequence) -> int:
        """Own pages of a sequence: those after its prefix."""
        pages = self.capacity.pages_for(sequence.prompt_tokens + self._tokens(sequence))
        return pages - prefix_pages(sequence.prefix, self.capacity.page_tokens)

    def _tokens(self, sequence: RunningSequence) -> int:
        """Tokens of generation reserved for a sequence."""
        if self._reservation == "maximum":
            return sequence.max_tokens
        if self._reservation == "held":
            return sequence.generated + 1
        reserved = max(ceil(sequence.quantiles[P90]), 1)
        while reserved <= sequence.generated:
            reserved *= 2
        return min(reserved, sequence.max_tokens)
