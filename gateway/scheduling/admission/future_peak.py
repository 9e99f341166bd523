"""Admission by the future KV use: what a start produces against what it may lose, in seconds.

A request starts if, at every step h ahead, `P(use(h) > capacity) · lost(h) ≤ produced(h)`: the
engine's seconds that a preemption then would take, against those that its tokens until then are
worth (`prices`), or until the next end, before which it would not start instead. Preempted is the
sequence of the longest remainder, which may be another one. With use normally distributed this is
the rule `max_h (E[use(h)] + z(h)·sd[use(h)]) ≤ capacity` with z(h) = Φ⁻¹(1 - produced(h)/lost(h)),
the critical ratio of a newsvendor: above 0 where preemptions are dear, below 0 where idle memory
is, and without bound once the tokens until h are worth a preemption at h. Before the engine's cost
is known, z is a constant.

The use ahead is that of `page_forecast`. Where memory is left even if all that runs goes on, it is
not computed: see `worst_case`.
"""

from collections.abc import Sequence
from math import ceil, erfc, sqrt
from statistics import NormalDist
from typing import Final

import numpy as np

from gateway.quantiles import MEDIAN, Floats
from gateway.scheduling.admission.end_pace import EndPace
from gateway.scheduling.admission.interface import NO_CAPACITY, STEPS_BETWEEN_DECISIONS, Capacity
from gateway.scheduling.admission.ledger import prefix_pages
from gateway.scheduling.admission.page_forecast import (
    EPSILON,
    REFRESH_STEPS,
    PageForecast,
    RequestUse,
)
from gateway.scheduling.admission.prices import EngineCost, Preemption, Prices, prices
from gateway.scheduling.requests import (
    Quantiles,
    QueuedRequest,
    RunningSequence,
    SharedPrefix,
)

MAX_TAKEN_BACK: Final = 1 / 8  # of the gain of a start, by a preemption at its reserved length
HALF_PAGE: Final = 0.5  # page counts are whole: more than C is C + ½ and above
MIN_VARIANCE: Final = 1e-12  # of a use that is certain
TAIL_ENDS: Final = 8.0  # standard deviations: beyond, a probability is 0 or 1
TAIL_POINTS: Final = np.linspace(-TAIL_ENDS, TAIL_ENDS, 1_601)
TAIL_CHANCES: Final = np.array([0.0, *map(NormalDist().cdf, TAIL_POINTS[1:-1]), 1.0])
TAIL_ERROR: Final = 1e-2  # relative, of interpolation between these points; generous


class FuturePeak:
    """Mean and variance of the future KV use of all running sequences; admits one by one.

    A candidate costs some tens of microseconds, independent of the number running. `z` is the
    margin until `price`, in standard deviations.
    """

    def __init__(self, z: float = 0.0) -> None:
        self.z = z
        self._cost: EngineCost | None = None
        self._current_prices: Prices | None = None
        self._peak_interval: int | None = None
        self._binding_interval = 0  # where the latest request failed that did not pay
        self._ahead = PageForecast()
        self._pace = EndPace()
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
        return not len(self._ahead)

    @property
    def pinned(self) -> Sequence[SharedPrefix]:
        """The pinned prefixes."""
        return list(self._ahead.prefixes.pinned.values())

    @property
    def stale(self) -> bool:
        """Whether a refresh is due before the next admission."""
        return self._ahead.steps >= REFRESH_STEPS or self._outdated

    def resize(self, capacity: Capacity) -> None:
        """Set the size of the pool; a refresh is due if anything runs."""
        self._capacity = capacity
        self._ahead.resize(capacity)
        self._available = capacity.pages - self._withheld
        self._changed()
        self._outdated = not self.empty

    def refresh(self, running: Sequence[RunningSequence]) -> None:
        """Start again from the sequences that run now."""
        self._ahead.refresh(running)
        self._changed()
        self._outdated = False

    def outdate(self) -> None:
        """Predictions of running sequences have changed: a refresh is due if anything runs."""
        self._outdated = self._outdated or not self.empty

    def advance(self, steps: int) -> None:
        """The engine has run this number of steps since the last call."""
        self._ahead.advance(steps)
        self._pace.advance(steps)
        self._changed()

    def leave(self, request_id: str) -> None:
        """A sequence left the engine; an unknown id is ignored."""
        if request_id not in self._ahead:
            return
        self._pace.ended()
        if self._outdated:
            self._ahead.drop(request_id)
        else:
            self._ahead.leave(request_id)
            self._changed()

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
        self._ahead.join(request)
        self._changed()

    def pin(self, prefix: SharedPrefix) -> None:
        """Count a prefix whole at every step ahead, until `unpin`."""
        self._ahead.pin(prefix)
        self._changed()

    def unpin(self, prefix_id: str) -> None:
        """Count a prefix only while a member lives; ignored if it is not pinned."""
        self._ahead.unpin(prefix_id)
        self._changed()

    def withhold(self, pages: int) -> None:
        """Keep this many pages of the pool free; a request still starts where nothing else runs."""
        self._withheld = pages
        self._available = self._capacity.pages - pages

    def reserve(self, request: QueuedRequest) -> int:
        """The steps until a preemption would take back little of its gain, at most its median.

        At the break-even nothing is gained. This rule guards the memory, so the engine only needs
        enough for a start to pay. It resumes preempted sequences by this, too: with room for no
        more than the break-even, the longest would be computed again and again.
        """
        steps = request.median
        if self._cost is not None:
            own = self._prices.preemption(request.prompt_tokens)
            break_even = own.break_even_steps(self._prices.produced_s)
            steps = min(break_even / MAX_TAKEN_BACK, steps)
        return max(1, min(ceil(steps), request.max_tokens))

    def assume(self, quantiles: Quantiles | None) -> None:
        """Use these quantiles for every request; None returns to the predicted ones."""
        if quantiles != self._assumed:
            self._assumed = quantiles
            self._ahead.assume(quantiles)
            self._outdated = self._outdated or not self.empty

    def price(self, cost: EngineCost | None) -> None:
        """Weigh by this cost of the engine; None: it is not known."""
        self._cost = cost
        self._current_prices = None

    def _try_join(self, request: QueuedRequest) -> bool:
        if not (self._capacity.allows(len(self._ahead)) and self._fits_now(request)):
            return False
        if self._surely_pays(request):
            self.force(request)
            return True
        use = self._paid_use(request) if self._cost is not None else self._fitting_use(request)
        if use is None:
            return False
        self._ahead.add(request, use)
        self._changed()
        return True

    def _fits_now(self, request: QueuedRequest) -> bool:
        """Whether its prompt fits next to the mean use of this step."""
        own = self._capacity.pages_for(request.prompt_tokens)
        if request.prefix is not None:
            own -= self._prefix_pages(request)
        return self._ahead.pages_now + own <= self._available

    def _fitting_use(self, request: QueuedRequest) -> RequestUse | None:
        """What it uses if mean + z·sd stays within the pool: the rule without the engine's cost."""
        if self._exceeds_at(self._find_peak_interval(), request):
            return None
        use = self._ahead.use_of(request)
        return use if self._peak(*self._ahead.sums_with(request, use)) <= self._available else None

    def _surely_pays(self, request: QueuedRequest) -> bool:
        """Whether it pays even if all that runs goes on: then the use ahead need not be summed."""
        now = self._ahead.now
        if self._cost is None or now is None or request.prefix is not None:
            return False
        most, pages = now.joined(request), self._available + HALF_PAGE
        least = self._end_steps
        if most.deviations(pages, least) < 0:
            return False
        loss = self._preemption(max(now.largest, request.prompt_tokens))
        last = float(self._ahead.grid.last[self._intervals(request, loss).stop - 1])
        chance = most.chance_beyond(pages, last)
        steps = min(least, request.max_tokens)
        generated = steps * self._ahead.survival(request).at(steps)
        loss_s = loss.seconds(last) * chance
        return loss_s * (1 + TAIL_ERROR) <= self._prices.produced_s * generated

    def _intervals(self, request: QueuedRequest, loss: Preemption) -> slice:
        """The intervals in which a request may lose more than it produces."""
        break_even = loss.break_even_steps(self._prices.produced_s)
        enough = min(max(break_even, self._end_steps + 1), request.max_tokens + 1)
        return slice(self._ahead.steps + 1, int(self._ahead.grid.first.searchsorted(enough)))

    def _paid_use(self, request: QueuedRequest) -> RequestUse | None:
        """What it uses if what it produces is worth what it may lose, at each step ahead."""
        grid, loss = self._ahead.grid, self._preemption(self._preempted_tokens(request))
        ahead = self._intervals(request, loss)
        binding = ahead.start <= self._binding_interval < ahead.stop
        plain = request.prefix is None
        if plain and binding and self._loses_at(request, loss):
            return None
        course = self._ahead.course(request)
        if ahead.stop <= ahead.start:
            return self._ahead.use_in(request, *course)
        survival, pages = course[0][ahead], course[1][ahead]
        if plain:
            own = pages * survival
            mean = self._ahead.mean[ahead] + own
            variance = self._ahead.variance[ahead] + pages * own * (1 - survival)
        else:
            whole = self._ahead.sums_with(request, self._ahead.use_in(request, *course))
            mean, variance = whole[0][ahead], whole[1][ahead]
        excess = mean - (self._available + HALF_PAGE)
        exceeded = np.interp(excess / np.sqrt(variance + MIN_VARIANCE), TAIL_POINTS, TAIL_CHANCES)
        steps = grid.steps[ahead]
        generated = (survival * steps).cumsum() - survival * (steps - 1)  # by the first step
        decision = int(grid.first[ahead].searchsorted(self._end_steps, side="right"))
        generated = np.maximum(generated, generated[decision - 1])
        loss_s = loss.seconds(grid.first[ahead]) * survival * exceeded
        loses = loss_s > self._prices.produced_s * generated
        worst = int(loses.argmax())
        if loses[worst]:
            self._binding_interval = ahead.start + worst
            return None
        return self._ahead.use_in(request, *course)

    def _loses_at(self, request: QueuedRequest, loss: Preemption) -> bool:
        """Whether a request does not pay at the binding interval: a cheap test that often settles.

        As if every step until there were certain to produce a token.
        """
        interval = self._binding_interval
        grid = self._ahead.grid
        last, first = float(grid.last[interval]), float(grid.first[interval])
        survival = self._ahead.survival(request).at(first)
        pages = self._capacity.pages_for(request.prompt_tokens + min(last, request.max_tokens))
        excess = float(self._ahead.mean[interval]) + pages * survival - self._available - HALF_PAGE
        variance = float(self._ahead.variance[interval]) + pages**2 * survival * (1 - survival)
        exceeded = erfc(-excess / sqrt(2 * (variance + MIN_VARIANCE))) / 2
        loss_s = loss.seconds(first) * survival * exceeded
        produced_s = self._prices.produced_s * max(first, self._end_steps)
        return loss_s > produced_s * (1 + TAIL_ERROR)

    def _preempted_tokens(self, request: QueuedRequest) -> int:
        """The KV tokens of what would be preempted if this request ran, too."""
        victim = self._ahead.victim
        quantiles = request.quantiles if self._assumed is None else self._assumed
        own = min(quantiles[MEDIAN], request.max_tokens)
        if victim is None or victim.remaining <= own * (1 + EPSILON):
            return request.prompt_tokens
        return victim.tokens

    def _preemption(self, tokens: int) -> Preemption:
        """The price of preempting a sequence of this number of tokens, next to what runs now."""
        pages = self._capacity.pages_for(tokens)
        size = pages * len(self._ahead) / max(self._ahead.pages_now, 1.0)
        return self._prices.preemption(tokens, size, self._pace.steps or 0.0)

    @property
    def _end_steps(self) -> int:
        """The whole steps until the next end, or until the next decision, which may be before it.

        At least 1.
        """
        pace = self._pace.steps
        if pace is None:
            return STEPS_BETWEEN_DECISIONS
        return int(min(max(pace, 1.0), STEPS_BETWEEN_DECISIONS))

    @property
    def _prices(self) -> Prices:
        """The prices next to what runs now; only while the cost is known."""
        if self._current_prices is None:
            assert self._cost is not None
            kv_tokens = self._ahead.pages_now * self._capacity.page_tokens
            self._current_prices = prices(self._cost, len(self._ahead), kv_tokens)
        return self._current_prices

    def _changed(self) -> None:
        """What runs has changed."""
        self._peak_interval = self._current_prices = None

    def _fits_alone(self, request: QueuedRequest) -> bool:
        """Whether a request fits the pool at its maximum length, next to other prefixes' pins."""
        held, page_tokens = self._ahead.prefixes, self._capacity.page_tokens
        if not held:
            return self._capacity.fits_alone(request)
        pinned = held.pinned_pages(page_tokens, without=request.prefix)
        return self._capacity.max_pages(request) + pinned <= self._capacity.pages

    def _prefix_pages(self, request: QueuedRequest) -> int:
        return prefix_pages(request.prefix, self._capacity.page_tokens)

    def _exceeds_at(self, interval: int, request: QueuedRequest) -> bool:
        """Whether one interval alone exceeds the pool: a cheap test that often settles it."""
        grid = self._ahead.grid
        last, first = float(grid.last[interval]), float(grid.first[interval])
        if first > request.max_tokens:
            return False
        survival = self._ahead.survival(request).at(first)
        pages = self._capacity.pages_for(request.prompt_tokens + min(last, request.max_tokens))
        if request.prefix is not None:  # by the mean of its own pages: a margin only adds to it
            mean = (
                float(self._ahead.mean[interval]) + (pages - self._prefix_pages(request)) * survival
            )
            return self.z >= 0 and mean > self._available * (1 + EPSILON)
        deviation = sqrt(
            float(self._ahead.variance[interval]) + pages**2 * survival * (1 - survival)
        )
        used = float(self._ahead.mean[interval]) + pages * survival + self.z * deviation
        return bool(used > self._available * (1 + EPSILON))

    def _find_peak_interval(self) -> int:
        """The interval of the running sequences' peak, cached until they change."""
        if self._peak_interval is None:
            ahead = slice(self._ahead.steps, None)
            use = self._ahead.mean[ahead] + self.z * np.sqrt(self._ahead.variance[ahead])
            self._peak_interval = self._ahead.steps + int(use.argmax())
        return self._peak_interval

    def _peak(self, mean: Floats, variance: Floats) -> float:
        ahead = slice(self._ahead.steps, None)
        return float((mean[ahead] + self.z * np.sqrt(variance[ahead])).max())
