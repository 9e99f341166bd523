"""Admission by the future KV use: what a start produces against what it may lose, in seconds.

A request starts if, at every step h ahead, `P(use(h) > capacity) · lost(h) ≤ produced(h)`: the
engine's seconds to make its KV memory again, were it preempted then, against those that its tokens
until then are worth (`prices`), or until the next decision, before which it would not start
instead. With use normally distributed this is the rule `max_h (E[use(h)] +
z(h)·sd[use(h)]) ≤ capacity` with z(h) = Φ⁻¹(1 - produced(h)/lost(h)), the critical ratio of a
newsvendor: above 0 where preemptions are dear, below 0 where idle memory is, and without bound once
the tokens until h are worth a preemption at h. Before the engine's cost is known, z is a constant.

A sequence uses ⌈(prompt + generated + h)/page⌉ pages h steps from now if it still runs then, else
none; lengths are taken as independent. The step grid has one interval per step at first, then ever
longer ones. In an interval each sequence counts with its size at the end and its survival at the
start: this exceeds the exact use at the interval's first step by less than its growth within one.
A sequence with a shared prefix counts with its own pages only; see `prefix_forecast` for the rest.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil, erfc, sqrt
from statistics import NormalDist
from typing import Final, TypeAlias

import numpy as np
from msgspec import Struct, structs

from gateway.quantiles import Floats
from gateway.scheduling.admission.interface import NO_CAPACITY, STEPS_BETWEEN_DECISIONS, Capacity
from gateway.scheduling.admission.ledger import prefix_pages
from gateway.scheduling.admission.length_distribution import LengthDistributions, survival_function
from gateway.scheduling.admission.prefix_forecast import (
    MemberUse,
    PrefixForecast,
    PrefixUse,
    member_use,
)
from gateway.scheduling.admission.prices import EngineCost, Prices, prices
from gateway.scheduling.requests import (
    Quantiles,
    QueuedRequest,
    RunningSequence,
    SharedPrefix,
)

REFRESH_STEPS: Final = 8  # after which a refresh is due; until then survival is not updated
EPSILON: Final = 1e-9  # relative; sums of floats depend on their order
SINGLE_STEPS: Final = 16  # steps with an interval each
INTERVAL_GROWTH: Final = 1.125
MAX_STEPS_AHEAD: Final = 2**22
assert REFRESH_STEPS < SINGLE_STEPS
HALF_PAGE: Final = 0.5  # page counts are whole: more than C is C + ½ and above
MIN_VARIANCE: Final = 1e-12  # of a use that is certain
TAIL_ENDS: Final = 8.0  # standard deviations: beyond, a probability is 0 or 1
TAIL_POINTS: Final = np.linspace(-TAIL_ENDS, TAIL_ENDS, 1_601)
TAIL_CHANCES: Final = np.array([0.0, *map(NormalDist().cdf, TAIL_POINTS[1:-1]), 1.0])
TAIL_ERROR: Final = 1e-2  # relative, of interpolation between these points; generous


def _interval_ends() -> Floats:
    ends = [float(step) for step in range(SINGLE_STEPS + 1)]
    while ends[-1] < MAX_STEPS_AHEAD:
        ends.append(float(int(ends[-1] * INTERVAL_GROWTH)))
    return np.array(ends)


INTERVAL_ENDS: Final = _interval_ends()
INTERVAL_STARTS: Final = np.concatenate([INTERVAL_ENDS[:1], INTERVAL_ENDS[:-1] + 1])


def interval_count(steps: int) -> int:
    """How many intervals `INTERVAL_STARTS[i]` … `INTERVAL_ENDS[i]` cover steps 0 … `steps`."""
    return int(np.searchsorted(INTERVAL_ENDS, steps)) + 1


class PageUse(Struct, frozen=True):
    """Mean and variance of pages in each interval ahead: of a sequence (H,), of several (n, H)."""

    mean: Floats
    variance: Floats


_Use: TypeAlias = tuple[PageUse, MemberUse | None]  # of a request, and of it in its prefix
NOTHING_USED: Final = PageUse(np.zeros((0, 0)), np.zeros((0, 0)))


class _StepGrid(Struct, frozen=True):
    """The intervals relative to a request that starts `offset` steps after the refresh."""

    last: Floats  # (H,), in steps
    first: Floats
    steps: Floats  # how many each interval has
    logs: Floats  # (H,): ln of each interval's first step, at least 0


def page_use_ahead(
    running: Sequence[RunningSequence], page_tokens: int, count: int
) -> tuple[Floats, Floats]:
    """Mean and variance of each sequence's own pages in `count` intervals: (n, count) each."""
    pages, survival = _pages_ahead(running, page_tokens, count, grouped=_any_prefix(running))
    return pages * survival, pages**2 * survival * (1 - survival)


def _pages_ahead(
    running: Sequence[RunningSequence], page_tokens: int, count: int, *, grouped: bool
) -> tuple[Floats, Floats]:
    """Each sequence's own pages while it runs, and P(it runs): (n, count) each."""
    lengths = LengthDistributions.of(running)
    last = INTERVAL_ENDS[:count]
    survival = lengths.survival(INTERVAL_STARTS[:count])  # at the start of each interval
    prompts = np.array([sequence.prompt_tokens for sequence in running], dtype=np.float64)
    longest = np.minimum(lengths.generated[:, None] + last, lengths.max_tokens[:, None])
    longest = np.maximum(longest, lengths.generated[:, None])
    pages = np.ceil((prompts[:, None] + longest) / page_tokens)
    if grouped:
        pages -= np.array([[prefix_pages(each.prefix, page_tokens)] for each in running])
    return pages, survival


def _any_prefix(running: Sequence[RunningSequence]) -> bool:
    return [sequence.prefix for sequence in running].count(None) < len(running)


class FuturePeak:
    """Mean and variance of the future KV use of all running sequences; admits one by one.

    A candidate costs some tens of microseconds, independent of the number running. `z` is the
    margin until `price`, in standard deviations.
    """

    def __init__(self, z: float = 0.0) -> None:
        self.z = z
        self._cost: EngineCost | None = None
        self._current_prices: Prices | None = None
        self._binding_interval = 0  # where the latest request failed that did not pay
        self._joined: dict[str, PageUse | int] = {}  # by number: a row of `_read`
        self._read = NOTHING_USED  # of what ran at the refresh
        self._prefixes = PrefixForecast()
        self._assumed: Quantiles | None = None
        self._withheld = 0
        self.resize(NO_CAPACITY)

    @property
    def capacity(self) -> Capacity:
        """The size of the pool."""
        return self._capacity

    @property
    def empty(self) -> bool:
        """Whether nothing runs."""
        return not self._joined

    @property
    def pinned(self) -> Sequence[SharedPrefix]:
        """The pinned prefixes."""
        return list(self._prefixes.held.pinned.values())

    @property
    def stale(self) -> bool:
        """Whether a refresh is due before the next admission."""
        return self._steps >= REFRESH_STEPS or self._outdated

    def resize(self, capacity: Capacity) -> None:
        """Set the size of the pool; a refresh is due if anything runs."""
        self._capacity = capacity
        count = max(interval_count(capacity.tokens), SINGLE_STEPS + 2)
        self._grids = [_step_grid(offset, count) for offset in range(REFRESH_STEPS + 1)]
        self._prefixes.resize(capacity.page_tokens, count)
        pinned = self._prefixes.total()
        self._mean, self._variance = pinned.mean, pinned.variance  # pages, all sequences
        self._available = capacity.pages - self._withheld
        self._steps = 0
        self._peak_interval: int | None = None
        self._current_prices = None
        self._outdated = bool(self._joined)

    def refresh(self, running: Sequence[RunningSequence]) -> None:
        """Start again from the sequences that run now."""
        if self._assumed is not None:
            running = [structs.replace(each, quantiles=self._assumed) for each in running]
        page_tokens, count = self._capacity.page_tokens, len(self._mean)
        grouped = _any_prefix(running)
        pages, survivals = _pages_ahead(running, page_tokens, count, grouped=grouped)
        means = pages * survivals
        self._read = PageUse(means, pages * means * (1 - survivals))
        self._joined = {sequence.id: row for row, sequence in enumerate(running)}
        self._mean, self._variance = means.sum(axis=0), self._read.variance.sum(axis=0)
        if grouped or self._prefixes:
            self._prefixes.clear()
            for sequence, mean, survival in zip(running, means, survivals, strict=True):
                if sequence.prefix is not None:
                    use = member_use(survival, mean)
                    self._prefixes.join(sequence.id, sequence.prefix, use)
            self._add(self._prefixes.total())
        self._steps = 0
        self._changed()
        self._outdated = False

    def outdate(self) -> None:
        """Predictions of running sequences have changed: a refresh is due if anything runs."""
        self._outdated = self._outdated or bool(self._joined)

    def advance(self, steps: int) -> None:
        """The engine has run this number of steps since the last call."""
        self._steps = min(self._steps + steps, REFRESH_STEPS)
        self._changed()

    def leave(self, request_id: str) -> None:
        """A sequence left the engine; an unknown id is ignored."""
        use = self._joined.pop(request_id, None)
        if use is not None and not self._outdated:
            if isinstance(use, int):
                use = PageUse(self._read.mean[use], self._read.variance[use])
            self._mean = self._mean - use.mean
            self._variance = np.maximum(self._variance - use.variance, 0.0)
            self._changed()
            self._add(self._prefixes.leave(request_id))

    def admit(self, requests: Sequence[QueuedRequest]) -> int:
        """Admit requests in order until one does not fit; returns how many were admitted."""
        for index, request in enumerate(requests):
            if self.empty and self._fits_alone(request):
                self.force(request)
            elif not self._try_join(request):
                return index
        return len(requests)

    def force(self, request: QueuedRequest) -> None:
        """Admit a request whether it fits or not."""
        self._join(request, *self._use(request, *self._course(request)))

    def pin(self, prefix: SharedPrefix) -> None:
        """Count a prefix whole at every step ahead, until `unpin`."""
        self._add(self._prefixes.pin(prefix))

    def unpin(self, prefix_id: str) -> None:
        """Count a prefix only while a member lives; ignored if it is not pinned."""
        self._add(self._prefixes.unpin(prefix_id))

    def withhold(self, pages: int) -> None:
        """Keep this many pages of the pool free; a request still starts where nothing else runs."""
        self._withheld = pages
        self._available = self._capacity.pages - pages

    def reserve(self, request: QueuedRequest) -> int:
        """The steps that it has to run to be worth a preemption, at most its median.

        This rule guards the memory, so the engine only needs enough to start. It resumes a
        preempted sequence by this, too.
        """
        steps = request.median
        if self._cost is not None:
            steps = min(self._prices.break_even_steps(request.prompt_tokens), steps)
        return max(1, min(ceil(steps), request.max_tokens))

    def assume(self, quantiles: Quantiles | None) -> None:
        """Use these quantiles for every request; None returns to the predicted ones."""
        if quantiles != self._assumed:
            self._assumed = quantiles
            self._outdated = self._outdated or bool(self._joined)

    def price(self, cost: EngineCost | None) -> None:
        """Weigh by this cost of the engine; None: it is not known."""
        self._cost = cost
        self._current_prices = None

    def _try_join(self, request: QueuedRequest) -> bool:
        if not (self._capacity.allows(len(self._joined)) and self._fits_now(request)):
            return False
        use = self._paid_use(request) if self._cost is not None else self._fitting_use(request)
        if use is None:
            return False
        self._join(request, *use)
        return True

    def _fits_now(self, request: QueuedRequest) -> bool:
        """Whether its prompt fits next to the mean use of this step."""
        own = self._capacity.pages_for(request.prompt_tokens)
        if request.prefix is not None:
            own -= self._prefix_pages(request)
        return bool(self._mean[self._steps] + own <= self._available)

    def _fitting_use(self, request: QueuedRequest) -> _Use | None:
        """What it uses if mean + z·sd stays within the pool: the rule without the engine's cost."""
        if self._exceeds_at(self._find_peak_interval(), request):
            return None
        use = self._use(request, *self._course(request))
        return use if self._peak(*self._with(request, *use)) <= self._available else None

    def _paid_use(self, request: QueuedRequest) -> _Use | None:
        """What it uses if what it produces is worth what it may lose, at each step ahead."""
        lost_s, produced_s = self._prices.lost_s, self._prices.produced_s
        grid = self._grids[self._steps]
        enough = max(
            self._prices.break_even_steps(request.prompt_tokens), STEPS_BETWEEN_DECISIONS + 1
        )
        enough = min(enough, request.max_tokens + 1)
        ahead = slice(self._steps + 1, int(grid.first.searchsorted(enough)))
        plain = request.prefix is None
        if plain and ahead.start <= self._binding_interval < ahead.stop and self._loses_at(request):
            return None
        survival, pages = self._course(request)
        use = self._use(request, survival, pages)
        if ahead.stop <= ahead.start:
            return use
        whole = self._with(request, *use)
        mean, variance, survival = whole[0][ahead], whole[1][ahead], survival[ahead]
        excess = mean - (self._available + HALF_PAGE)
        exceeded = np.interp(excess / np.sqrt(variance + MIN_VARIANCE), TAIL_POINTS, TAIL_CHANCES)
        steps = grid.steps[ahead]
        generated = (survival * steps).cumsum() - survival * (steps - 1)  # by the first step
        decision = int(grid.first[ahead].searchsorted(STEPS_BETWEEN_DECISIONS, side="right"))
        generated = np.maximum(generated, generated[decision - 1])
        held = request.prompt_tokens + grid.first[ahead]
        loses = lost_s * held * survival * exceeded > produced_s * generated
        worst = int(loses.argmax())
        if loses[worst]:
            self._binding_interval = ahead.start + worst
            return None
        return use

    def _loses_at(self, request: QueuedRequest) -> bool:
        """Whether a request does not pay at the binding interval: a cheap test that often settles.

        As if every step until there were certain to produce a token.
        """
        interval = self._binding_interval
        grid = self._grids[self._steps]
        last, first = float(grid.last[interval]), float(grid.first[interval])
        survival = survival_function(self._quantiles(request), request.max_tokens).at(first)
        pages = self._capacity.pages_for(request.prompt_tokens + min(last, request.max_tokens))
        excess = float(self._mean[interval]) + pages * survival - self._available - HALF_PAGE
        variance = float(self._variance[interval]) + pages**2 * survival * (1 - survival)
        exceeded = erfc(-excess / sqrt(2 * (variance + MIN_VARIANCE))) / 2
        loss_s = self._prices.lost_s * (request.prompt_tokens + first) * survival * exceeded
        return loss_s > self._prices.produced_s * max(first, STEPS_BETWEEN_DECISIONS) * (
            1 + TAIL_ERROR
        )

    @property
    def _prices(self) -> Prices:
        """The prices next to what runs now; only while the cost is known."""
        if self._current_prices is None:
            assert self._cost is not None
            kv_tokens = float(self._mean[self._steps]) * self._capacity.page_tokens
            self._current_prices = prices(self._cost, len(self._joined), kv_tokens)
        return self._current_prices

    def _with(
        self, request: QueuedRequest, use: PageUse, member: MemberUse | None
    ) -> tuple[Floats, Floats]:
        """Mean and variance of the use of what runs and this request."""
        mean, variance = self._mean + use.mean, self._variance + use.variance
        if member is not None and request.prefix is not None:
            change = self._prefixes.change(request.prefix, member)
            mean, variance = mean + change.mean, np.maximum(variance + change.variance, 0.0)
        return mean, variance

    def _changed(self) -> None:
        """What runs has changed."""
        self._peak_interval = self._current_prices = None

    def _fits_alone(self, request: QueuedRequest) -> bool:
        """Whether a request fits the pool at its maximum length, next to other prefixes' pins."""
        if not self._prefixes:
            return self._capacity.fits_alone(request)
        held, page_tokens = self._prefixes.held, self._capacity.page_tokens
        pinned = held.pinned_pages(page_tokens, without=request.prefix)
        return self._capacity.max_pages(request) + pinned <= self._capacity.pages

    def _prefix_pages(self, request: QueuedRequest) -> int:
        return prefix_pages(request.prefix, self._capacity.page_tokens)

    def _exceeds_at(self, interval: int, request: QueuedRequest) -> bool:
        """Whether one interval alone exceeds the pool: a cheap test that often settles it."""
        grid = self._grids[self._steps]
        last, first = float(grid.last[interval]), float(grid.first[interval])
        if first > request.max_tokens:
            return False
        survival = survival_function(self._quantiles(request), request.max_tokens).at(first)
        pages = self._capacity.pages_for(request.prompt_tokens + min(last, request.max_tokens))
        if request.prefix is not None:  # by the mean of its own pages: a margin only adds to it
            mean = float(self._mean[interval]) + (pages - self._prefix_pages(request)) * survival
            return self.z >= 0 and mean > self._available * (1 + EPSILON)
        deviation = sqrt(float(self._variance[interval]) + pages**2 * survival * (1 - survival))
        used = float(self._mean[interval]) + pages * survival + self.z * deviation
        return bool(used > self._available * (1 + EPSILON))

    def _find_peak_interval(self) -> int:
        """The interval of the running sequences' peak, cached until they change."""
        if self._peak_interval is None:
            ahead = slice(self._steps, None)
            use = self._mean[ahead] + self.z * np.sqrt(self._variance[ahead])
            self._peak_interval = self._steps + int(use.argmax())
        return self._peak_interval

    def _join(self, request: QueuedRequest, use: PageUse, member: MemberUse | None) -> None:
        self._joined[request.id] = use
        self._mean = self._mean + use.mean
        self._variance = self._variance + use.variance
        self._changed()
        if member is not None and request.prefix is not None:
            self._add(self._prefixes.join(request.id, request.prefix, member))

    def _peak(self, mean: Floats, variance: Floats) -> float:
        ahead = slice(self._steps, None)
        return float((mean[ahead] + self.z * np.sqrt(variance[ahead])).max())

    def _quantiles(self, request: QueuedRequest) -> Quantiles:
        return request.quantiles if self._assumed is None else self._assumed

    def _add(self, change: PrefixUse | None) -> None:
        """Add the change of a prefix's use to the totals."""
        if change is not None:
            self._mean = self._mean + change.mean
            self._variance = np.maximum(self._variance + change.variance, 0.0)
            self._changed()

    def _use(self, request: QueuedRequest, survival: Floats, pages: Floats) -> _Use:
        """Own pages of a request that starts now, and its part in its prefix's life."""
        if request.prefix is None:
            mean = pages * survival
            return PageUse(mean, pages * mean * (1 - survival)), None
        own = pages - self._prefix_pages(request)
        mean = own * survival
        return PageUse(mean, own * mean * (1 - survival)), member_use(survival, mean)

    def _course(self, request: QueuedRequest) -> tuple[Floats, Floats]:
        """P(it runs) and its pages, its prefix included, in each interval if it starts now."""
        grid = self._grids[self._steps]
        function = survival_function(self._quantiles(request), request.max_tokens)
        survival = function.ahead(grid.logs)
        survival[grid.first.searchsorted(request.max_tokens, side="right") :] = 0.0
        tokens = request.prompt_tokens + np.minimum(grid.last, request.max_tokens)
        return survival, np.ceil(tokens / self._capacity.page_tokens)


@lru_cache(maxsize=256)
def _step_grid(offset: int, count: int) -> _StepGrid:
    """The same for all pools of a size: several engines read it in turn."""
    last = np.maximum(INTERVAL_ENDS[:count] - offset, 0.0)
    first = np.maximum(INTERVAL_STARTS[:count] - offset, 0.0)
    return _StepGrid(last, first, last - first + 1, np.log(np.maximum(first, 1.0)))
