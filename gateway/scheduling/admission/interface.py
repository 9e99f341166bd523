"""The admission rules by name, behind one interface, and the size of the KV pool."""

from collections.abc import Sequence
from typing import Final, Literal, Protocol, TypeAlias

from msgspec import Struct

from gateway.scheduling.admission.prices import EngineCost
from gateway.scheduling.requests import (
    Quantiles,
    QueuedRequest,
    RunningSequence,
    SharedPrefix,
)

STEPS_BETWEEN_DECISIONS: Final = 16  # while requests are queued and nothing ends

AdmissionName: TypeAlias = Literal["peak", "reserved", "maximum", "held"]


class Capacity(Struct, frozen=True):
    """The size of the KV pool, and the most sequences that run at once; None: no limit."""

    pages: int
    page_tokens: int
    max_running: int | None = None

    @property
    def tokens(self) -> int:
        """Token slots in the pool: Θ."""
        return self.pages * self.page_tokens

    def pages_for(self, tokens: float) -> int:
        """Pages that hold this number of tokens."""
        return int(-(-tokens // self.page_tokens))

    def allows(self, running: int) -> bool:
        """Whether one more sequence may run next to this number of them."""
        return self.max_running is None or running < self.max_running

    def fits_alone(self, request: QueuedRequest) -> bool:
        """Whether the request fits an empty pool at its maximum length."""
        return self.max_pages(request) <= self.pages

    def max_pages(self, request: QueuedRequest) -> int:
        """Pages of the request at its maximum length, prompt and max_tokens."""
        return self.pages_for(request.prompt_tokens + request.max_tokens)


NO_CAPACITY: Final = Capacity(pages=0, page_tokens=1)


class Admission(Protocol):
    """Decides which requests fit the engine next to the running sequences.

    `refresh` sets the running sequences; `advance`, `leave`, `admit` and `force` update them until
    the next refresh. If nothing runs, a request that fits the pool at its maximum length is always
    admitted.

    A sequence with a shared prefix counts with its own pages only. The prefix counts once, while a
    member lives; a pinned one counts whole until `unpin`. Pins outlast `refresh` and `resize`.
    """

    @property
    def capacity(self) -> Capacity:
        """The size of the pool."""

    @property
    def empty(self) -> bool:
        """Whether nothing runs."""

    @property
    def stale(self) -> bool:
        """Whether a refresh is due before the next admission."""

    def outdate(self) -> None:
        """Predictions of running sequences have changed: a refresh is due if anything runs."""

    def refresh(self, running: Sequence[RunningSequence]) -> None:
        """Start again from the sequences that run now."""

    def advance(self, steps: int) -> None:
        """The engine has run this number of steps since the last call."""

    def leave(self, request_id: str) -> None:
        """A sequence left the engine; an unknown id is ignored."""

    def admit(self, requests: Sequence[QueuedRequest]) -> int:
        """Admit requests in order until one does not fit; returns how many were admitted."""

    def force(self, request: QueuedRequest) -> None:
        """Admit a request whether it fits or not."""

    def pin(self, prefix: SharedPrefix) -> None:
        """Count a prefix whole at every step ahead, until `unpin`."""

    def unpin(self, prefix_id: str) -> None:
        """Count a prefix only while a member lives; ignored if it is not pinned."""

    def reserve(self, request: QueuedRequest) -> int:
        """Tokens of generation for which the engine is to reserve memory, at least 1."""

    def resize(self, capacity: Capacity) -> None:
        """Set the size of the pool."""

    def assume(self, quantiles: Quantiles | None) -> None:
        """Use these quantiles for every request; None returns to the predicted ones."""

    def price(self, cost: EngineCost | None) -> None:
        """Weigh by this cost of the engine; None: it is not known."""
