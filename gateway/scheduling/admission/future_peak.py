"""Admission by the future KV peak: `max_h (E[use(h)] + z·sd[use(h)]) ≤ capacity`, in pages.

A sequence uses ⌈(prompt + generated + h)/page⌉ pages h steps from now if it still runs then, else
none; lengths are taken as independent. Far steps are looked at in intervals, and in each every
sequence counts with its size at the end and its survival at the start: more than the exact use at
the interval's first step by less than one interval's growth.
"""

from collections.abc import Sequence
from math import ceil, sqrt
from typing import Final

import numpy as np
from msgspec import Struct, structs

from gateway.scheduling.admission.interface import NO_CAPACITY, Capacity
from gateway.scheduling.admission.length_distribution import Floats, LengthDistributions, survival
from gateway.scheduling.admission.safety_margin import TARGET, SafetyMargin
from gateway.scheduling.requests import Quantiles, QueuedRequest, RunningSequence

REFRESH: Final = 8  # steps; until then what runs is taken to be as likely to end as at the refresh
EPSILON: Final = 1e-9  # sums of floats differ by their order
EACH: Final = 16  # steps looked at one by one
WIDENING: Final = 1.125
FARTHEST: Final = 2**22
assert REFRESH <= EACH


def _interval_ends() -> Floats:
    ends = [float(step) for step in range(EACH + 1)]
    while ends[-1] < FARTHEST:
        ends.append(float(int(ends[-1] * WIDENING)))
    return np.array(ends)


LAST: Final = _interval_ends()
FIRST: Final = np.concatenate([LAST[:1], LAST[:-1] + 1])


def intervals(steps: int) -> int:
    """How many intervals, each from `FIRST[i]` through `LAST[i]`, cover steps 0 … `steps`."""
    return int(np.searchsorted(LAST, steps)) + 1


class Use(Struct, frozen=True):
    """Mean and variance of the pages of one sequence in each interval ahead: (H,) each."""

    mean: Floats
    variance: Floats


class _Ahead(Struct, frozen=True):
    """Intervals as one sees them that starts `offset` steps after the refresh."""

    last: Floats  # (H,), steps
    first: Floats
    logs: Floats  # (H,): ln of each interval's first step, at least 0


def use_ahead(
    running: Sequence[RunningSequence], page_tokens: int, count: int
) -> tuple[Floats, Floats]:
    """Mean and variance of each sequence's pages over `count` intervals: (n, count) each."""
    lengths = LengthDistributions.of(running)
    last = LAST[:count]
    alive = lengths.alive(FIRST[:count])  # at the start of each interval
    prompts = np.array([sequence.prompt_tokens for sequence in running], dtype=np.float64)
    longest = np.minimum(lengths.generated[:, None] + last, lengths.max_tokens[:, None])
    longest = np.maximum(longest, lengths.generated[:, None])
    pages = np.ceil((prompts[:, None] + longest) / page_tokens)
    return pages * alive, pages**2 * alive * (1 - alive)


class FuturePeak:
    """What running sequences will use; requests join it one after another.

    A candidate costs some tens of microseconds, however many run.
    """

    def __init__(self, z: float, preempted_share: float = TARGET) -> None:
        self._caution = SafetyMargin(z, preempted_share)
        self._joined: dict[str, Use] = {}
        self._assumed: Quantiles | None = None
        self.resize(NO_CAPACITY)

    @property
    def capacity(self) -> Capacity:
        """The pool."""
        return self._capacity

    @property
    def z(self) -> float:
        """Standard deviations kept free above the expected peak."""
        return self._caution.z

    @property
    def empty(self) -> bool:
        """Whether nothing runs."""
        return not self._joined

    @property
    def stale(self) -> bool:
        """Whether a refresh is due before the next admission."""
        return self._steps >= REFRESH or self._outdated

    def resize(self, capacity: Capacity) -> None:
        """Admit to a pool of this size from now on; what runs is to be told anew."""
        self._capacity = capacity
        count = max(intervals(capacity.tokens), EACH + 2)
        self._ahead = [_ahead(offset, count) for offset in range(REFRESH + 1)]
        self._mean, self._variance = np.zeros(count), np.zeros(count)  # pages, all sequences
        self._steps = 0
        self._worst: int | None = None
        self._outdated = bool(self._joined)

    def refresh(self, running: Sequence[RunningSequence]) -> None:
        """Begin anew from what runs now."""
        if self._assumed is not None:
            running = [structs.replace(each, quantiles=self._assumed) for each in running]
        means, variances = use_ahead(running, self._capacity.page_tokens, len(self._mean))
        self._joined = {
            sequence.id: Use(mean, variance)
            for sequence, mean, variance in zip(running, means, variances, strict=True)
        }
        self._mean, self._variance = means.sum(axis=0), variances.sum(axis=0)
        self._steps = 0
        self._worst = None
        self._outdated = False

    def advance(self, steps: int) -> None:
        """So many steps of the engine have passed."""
        self._steps = min(self._steps + steps, REFRESH)
        self._worst = None

    def leave(self, request_id: str) -> None:
        """A sequence left the engine; nothing happens where it is unknown."""
        use = self._joined.pop(request_id, None)
        if use is not None and not self._outdated:
            self._mean = self._mean - use.mean
            self._variance = np.maximum(self._variance - use.variance, 0.0)
            self._worst = None

    def admit(self, requests: Sequence[QueuedRequest]) -> int:
        """How many of the requests, in order, can join; they have then joined."""
        for place, request in enumerate(requests):
            if self.empty and self._capacity.holds(request):
                self.force(request)
            elif not self._take(request):
                return place
        return len(requests)

    def force(self, request: QueuedRequest) -> None:
        """Let a request join whether it fits or not."""
        self._join(request, self._use(request))

    def reserve(self, request: QueuedRequest) -> int:
        """The median: memory is watched here, the engine need only begin."""
        return max(1, min(ceil(request.median), request.max_tokens))

    def assume(self, quantiles: Quantiles | None) -> None:
        """Take every length to be distributed like this, or None: as predicted."""
        if quantiles != self._assumed:
            self._assumed = quantiles
            self._outdated = self._outdated or bool(self._joined)

    def observed(self, ended: int, preempted: int) -> None:
        """So many requests ended while others waited, and so many preemptions were, since then."""
        self._caution.observed(ended, preempted, running=len(self._joined))

    def _take(self, request: QueuedRequest) -> bool:
        at_once = self._mean[self._steps] + self._capacity.pages_for(request.prompt_tokens)
        if at_once > self._capacity.pages or self._exceeds_at(self._worst_step(), request):
            return False
        use = self._use(request)
        peak = self._peak(self._mean + use.mean, self._variance + use.variance)
        if peak > self._capacity.pages:
            return False
        self._join(request, use)
        return True

    def _exceeds_at(self, interval: int, request: QueuedRequest) -> bool:
        """Whether the pool is too small in one interval already: no look at the others then."""
        ahead = self._ahead[self._steps]
        last, first = float(ahead.last[interval]), float(ahead.first[interval])
        if first > request.max_tokens:
            return False
        alive = survival(self._quantiles(request), request.max_tokens).alive(first)
        pages = self._capacity.pages_for(request.prompt_tokens + min(last, request.max_tokens))
        deviation = sqrt(float(self._variance[interval]) + pages**2 * alive * (1 - alive))
        used = float(self._mean[interval]) + pages * alive + self._caution.z * deviation
        return bool(used > self._capacity.pages * (1 + EPSILON))

    def _worst_step(self) -> int:
        """The interval of the peak."""
        if self._worst is None:
            ahead = slice(self._steps, None)
            use = self._mean[ahead] + self._caution.z * np.sqrt(self._variance[ahead])
            self._worst = self._steps + int(use.argmax())
        return self._worst

    def _join(self, request: QueuedRequest, use: Use) -> None:
        self._joined[request.id] = use
        self._mean = self._mean + use.mean
        self._variance = self._variance + use.variance
        self._worst = None

    def _peak(self, mean: Floats, variance: Floats) -> float:
        ahead = slice(self._steps, None)
        return float((mean[ahead] + self._caution.z * np.sqrt(variance[ahead])).max())

    def _quantiles(self, request: QueuedRequest) -> Quantiles:
        return request.quantiles if self._assumed is None else self._assumed

    def _use(self, request: QueuedRequest) -> Use:
        """Pages of a request that starts now."""
        ahead = self._ahead[self._steps]
        survives = survival(self._quantiles(request), request.max_tokens)
        alive = np.exp(-np.interp(ahead.logs, survives.knots, survives.hazards))
        alive[ahead.first.searchsorted(request.max_tokens, side="right") :] = 0.0
        tokens = request.prompt_tokens + np.minimum(ahead.last, request.max_tokens)
        pages = np.ceil(tokens / self._capacity.page_tokens)
        return Use(pages * alive, pages**2 * alive * (1 - alive))


def _ahead(offset: int, count: int) -> _Ahead:
    last = np.maximum(LAST[:count] - offset, 0.0)
    first = np.maximum(FIRST[:count] - offset, 0.0)
    return _Ahead(last, first, np.log(np.maximum(first, 1.0)))
