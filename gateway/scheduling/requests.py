"""What the scheduler is told: requests that wait, batches of them, and sequences that run."""

from typing import TypeAlias

from msgspec import Struct

Quantiles: TypeAlias = tuple[float, float, float, float, float, float]
"""Generation length in tokens at τ = .1 .25 .5 .75 .9 .95, rising, within 1 … max_tokens."""


class QueuedRequest(Struct, frozen=True):
    """A request that has not started. All times are on the clock that dispatch is called with.

    `share` is its tenant's weight among tenants. `urgency` is its service tier's weight: a second
    of waiting counts `urgency` times, and so does a token charged to its tenant. The whole answer
    is wanted by `deadline_s`; it must have started by `start_by_s`.
    """

    id: str
    tenant: str
    prompt_tokens: int
    quantiles: Quantiles
    max_tokens: int
    arrived_s: float
    share: float = 1.0
    urgency: float = 1.0
    deadline_s: float | None = None
    start_by_s: float | None = None

    @property
    def median(self) -> float:
        """The statistic for WMA and serving time: G'."""
        return self.quantiles[2]

    @property
    def upper(self) -> float:
        """The statistic for reservations: the 0.9 quantile."""
        return self.quantiles[4]

    def started(self) -> "RunningSequence":
        """The sequence it becomes once dispatched."""
        return RunningSequence(self.id, self.prompt_tokens, 0, self.quantiles, self.max_tokens)


class RunningSequence(Struct, frozen=True):
    """A sequence the engine holds; `generated` tokens so far, quantiles of its whole length."""

    id: str
    prompt_tokens: int
    generated: int
    quantiles: Quantiles
    max_tokens: int


class WaitingBatch(Struct, frozen=True):
    """A batch as it waits: its requests in order, its serving time S, its ratio R now."""

    id: str
    requests: tuple[QueuedRequest, ...]
    serving_s: float
    ratio: float = 1.0

    @property
    def generation_tokens(self) -> float:
        """G(B): the longest predicted generation."""
        return max(request.median for request in self.requests)

    @property
    def oldest_s(self) -> float:
        """Arrival of the request that has waited longest."""
        return min(request.arrived_s for request in self.requests)
