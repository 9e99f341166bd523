"""What the scheduler is told: requests that wait, batches of them, and sequences that run."""

from typing import TypeAlias

from msgspec import Struct

Quantiles: TypeAlias = tuple[float, float, float, float, float, float]
"""Generation length in tokens at τ = .1 .25 .5 .75 .9 .95, rising, within 1 … max_tokens."""


class Waiting(Struct, frozen=True):
    """A request that has not started; `arrived_s` is on the clock that dispatch is called with."""

    id: str
    model: str
    tenant: str
    prompt_tokens: int
    quantiles: Quantiles
    max_tokens: int
    arrived_s: float

    @property
    def median(self) -> float:
        """The statistic for order, WMA and serving time: G'."""
        return self.quantiles[2]

    @property
    def upper(self) -> float:
        """The statistic for memory: the 0.9 quantile."""
        return self.quantiles[4]

    def started(self) -> "Running":
        """The sequence it becomes once dispatched."""
        return Running(self.id, self.prompt_tokens, 0, self.quantiles, self.max_tokens)


class Running(Struct, frozen=True):
    """A sequence the engine holds; `generated` tokens so far, quantiles of its whole length."""

    id: str
    prompt_tokens: int
    generated: int
    quantiles: Quantiles
    max_tokens: int


class WaitingBatch(Struct, frozen=True):
    """A batch as it waits: its requests oldest first, and its serving time S as ranked now."""

    id: str
    model: str
    requests: tuple[Waiting, ...]
    insertable: bool
    serving_s: float

    @property
    def prompt_tokens(self) -> int:
        """L(B): the longest prompt."""
        return max(request.prompt_tokens for request in self.requests)

    @property
    def generation_tokens(self) -> float:
        """G(B): the longest predicted generation."""
        return max(request.median for request in self.requests)

    @property
    def oldest_s(self) -> float:
        """Arrival of the request that has waited longest."""
        return self.requests[0].arrived_s
