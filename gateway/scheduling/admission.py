"""Admission by the future KV peak: `max_h (E[use(h)] + z·sd[use(h)]) ≤ capacity`, in pages.

A sequence uses ⌈(prompt + generated + h)/page⌉ pages h steps from now if it still runs then, else
none; lengths are taken as independent. Far steps are looked at in intervals, and in each every
sequence counts with its size at the end and its survival at the start: the result is never below
the exact maximum, and above it by less than one interval's growth.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
from msgspec import Struct

from gateway.scheduling.horizon import EACH, FIRST, LAST, intervals
from gateway.scheduling.remaining import Floats, Lengths
from gateway.scheduling.waiting import Running, Waiting


class Capacity(Struct, frozen=True):
    """The KV pool, and `z`: standard deviations kept free above the expected peak."""

    pages: int
    page_tokens: int
    z: float

    @property
    def tokens(self) -> int:
        """Token slots in the pool: Θ in tokens."""
        return self.pages * self.page_tokens

    def resized(self, pages: int, page_tokens: int) -> Self:
        """Another pool, with as much kept free."""
        return type(self)(pages, page_tokens, self.z)

    def holds(self, request: Waiting) -> bool:
        """Whether the request fits at its longest with the pool to itself."""
        return self.longest_pages(request) <= self.pages

    def longest_pages(self, request: Waiting) -> int:
        """Pages the request takes at its longest."""
        return -(-(request.prompt_tokens + request.max_tokens) // self.page_tokens)


def use_ahead(running: Sequence[Running], page_tokens: int) -> tuple[Floats, Floats]:
    """Mean and variance of each sequence's pages over the intervals ahead: (n, H) each."""
    lengths = Lengths.of(running)
    reach = max((sequence.max_tokens - sequence.generated for sequence in running), default=0)
    count = intervals(max(reach, 0))
    last, wide = LAST[:count], FIRST[EACH + 1 : count]
    alive = lengths.alive(np.concatenate([last, wide]))
    least = alive[:, :count]  # (n, H), at the end of each interval
    most = np.concatenate([least[:, : EACH + 1], alive[:, count:]], axis=1)  # at its start
    prompts = np.array([sequence.prompt_tokens for sequence in running], dtype=np.float64)
    longest = np.minimum(lengths.generated[:, None] + last, lengths.max_tokens[:, None])
    longest = np.maximum(longest, lengths.generated[:, None])
    pages = np.ceil((prompts[:, None] + longest) / page_tokens)
    even = np.minimum(np.maximum(least, 0.5), most)  # where the variance is largest
    return pages * most, pages**2 * even * (1 - even)


class Forecast:
    """The pages that running sequences will use; requests are admitted to it one after another."""

    def __init__(self, running: Sequence[Running], capacity: Capacity) -> None:
        self._capacity = capacity
        self._empty = not running
        mean, variance = use_ahead(running, capacity.page_tokens)
        self._mean = mean.sum(axis=0)  # (H,), pages
        self._variance = variance.sum(axis=0)

    def peak(self) -> float:
        """Pages that will do, in all likelihood, until all have finished."""
        return float(self._peaks(self._mean, self._variance))

    def fits(self, requests: Sequence[Waiting]) -> list[bool]:
        """For each request whether it alone can join."""
        mean, variance = self._use(requests)
        peaks = self._peaks(self._mean + mean, self._variance + variance)
        return [
            bool(peak <= self._capacity.pages) or (self._empty and self._capacity.holds(request))
            for request, peak in zip(requests, peaks, strict=True)
        ]

    def admit(self, requests: Sequence[Waiting]) -> int:
        """How many of the requests, in order, can join; they have then joined."""
        if not requests:
            return 0
        mean, variance = (use.cumsum(axis=0) for use in self._use(requests))
        peaks = self._peaks(self._mean + mean, self._variance + variance)  # (n,), rising
        count = int(np.searchsorted(peaks, self._capacity.pages, side="right"))
        if count == 0 and self._empty and self._capacity.holds(requests[0]):
            count = 1
        if count:
            self._empty = False
            self._mean = self._mean + mean[count - 1]
            self._variance = self._variance + variance[count - 1]
        return count

    def _use(self, requests: Sequence[Waiting]) -> tuple[Floats, Floats]:
        """Mean and variance of the requests' pages, as far ahead as the forecast: (n, H) each."""
        mean, variance = use_ahead([r.started() for r in requests], self._capacity.page_tokens)
        steps = max(mean.shape[1], len(self._mean))
        self._mean, self._variance = _reaching(self._mean, steps), _reaching(self._variance, steps)
        return _reaching(mean, steps), _reaching(variance, steps)

    def _peaks(self, mean: Floats, variance: Floats) -> Floats:
        peaks: Floats = (mean + self._capacity.z * np.sqrt(variance)).max(axis=-1)
        return peaks


def _reaching(use: Floats, steps: int) -> Floats:
    """`use` (…, H) with zeros up to `steps`: nobody runs so far ahead."""
    short = steps - use.shape[-1]
    return np.pad(use, [(0, 0)] * (use.ndim - 1) + [(0, short)]) if short else use


def admissible(batch: Sequence[Waiting], running: Sequence[Running], capacity: Capacity) -> int:
    """How many requests of a batch, in order, fit beside `running`.

    A lone request whose prompt and max_tokens fit the pool always does.
    """
    return Forecast(running, capacity).admit(batch)
