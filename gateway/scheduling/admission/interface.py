"""What is admitted next to what runs: the rules by name, behind one interface, and the pool."""

from collections.abc import Sequence
from typing import Final, Literal, Protocol, TypeAlias

from msgspec import Struct

from gateway.scheduling.requests import Quantiles, QueuedRequest, RunningSequence

AdmissionName: TypeAlias = Literal["peak", "reserved", "maximum", "held"]


class Capacity(Struct, frozen=True):
    """The size of the KV pool."""

    pages: int
    page_tokens: int

    @property
    def tokens(self) -> int:
        """Token slots in the pool: Θ in tokens."""
        return self.pages * self.page_tokens

    def pages_for(self, tokens: float) -> int:
        """Pages that hold so many tokens."""
        return int(-(-tokens // self.page_tokens))

    def holds(self, request: QueuedRequest) -> bool:
        """Whether the request fits at its longest with the pool to itself."""
        return self.longest_pages(request) <= self.pages

    def longest_pages(self, request: QueuedRequest) -> int:
        """Pages the request takes at its longest."""
        return self.pages_for(request.prompt_tokens + request.max_tokens)


NO_CAPACITY: Final = Capacity(pages=0, page_tokens=1)


class Admission(Protocol):
    """Knows what runs and how much KV memory there is.

    Between two refreshes it is kept up to date by what joins, leaves and steps. A lone request
    that fits the pool at its longest is always admitted.
    """

    @property
    def capacity(self) -> Capacity:
        """The pool."""

    @property
    def empty(self) -> bool:
        """Whether nothing runs."""

    @property
    def stale(self) -> bool:
        """Whether a refresh is due before the next admission."""

    def refresh(self, running: Sequence[RunningSequence]) -> None:
        """Begin anew from what runs now."""

    def advance(self, steps: int) -> None:
        """So many steps of the engine have passed."""

    def leave(self, request_id: str) -> None:
        """A sequence left the engine; nothing happens where it is unknown."""

    def admit(self, requests: Sequence[QueuedRequest]) -> int:
        """How many of the requests, in order, can join; they have then joined."""

    def force(self, request: QueuedRequest) -> None:
        """Let a request join whether it fits or not."""

    def reserve(self, request: QueuedRequest) -> int:
        """Tokens of generation that the engine shall promise memory for, at least 1."""

    def resize(self, capacity: Capacity) -> None:
        """Admit to a pool of this size from now on."""

    def assume(self, quantiles: Quantiles | None) -> None:
        """Take every length to be distributed like this, or None: as predicted."""

    def observed(self, ended: int, preempted: int) -> None:
        """So many requests ended while others waited, and so many preemptions were, since then."""
