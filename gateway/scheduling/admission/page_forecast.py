"""The pages that running sequences are expected to use in each interval of steps ahead.

A sequence uses ⌈(prompt + generated + h)/page⌉ pages h steps from now if it still runs then, else
none; lengths are taken as independent. The step grid has one interval per step at first, then ever
longer ones. In an interval each sequence counts with its size at the end and its survival at the
start: this exceeds the exact use at the interval's first step by less than its growth within one.
A sequence with a shared prefix counts with its own pages only; see `prefix_forecast` for the rest.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from msgspec import Struct, structs

from gateway.quantiles import Floats
from gateway.scheduling.admission.interface import NO_CAPACITY, Capacity
from gateway.scheduling.admission.ledger import SharedPrefixes, prefix_pages
from gateway.scheduling.admission.length_distribution import (
    LengthDistributions,
    SurvivalFunction,
    survival_function,
)
from gateway.scheduling.admission.prefix_forecast import (
    MemberUse,
    PrefixForecast,
    PrefixUse,
    member_use,
)
from gateway.scheduling.admission.worst_case import WorstCase
from gateway.scheduling.requests import (
    Quantiles,
    QueuedRequest,
    RunningSequence,
    SharedPrefix,
)

EPSILON: Final = 1e-9  # relative; sums of floats depend on their order
REFRESH_STEPS: Final = 8  # after which a refresh is due; until then survival is not updated
SINGLE_STEPS: Final = 16  # steps with an interval each
INTERVAL_GROWTH: Final = 1.125
MAX_STEPS_AHEAD: Final = 2**22
assert REFRESH_STEPS < SINGLE_STEPS


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


RequestUse: TypeAlias = tuple[PageUse, MemberUse | None]  # of a request, and of it in its prefix
NOTHING_USED: Final = PageUse(np.zeros((0, 0)), np.zeros((0, 0)))


class Victim(NamedTuple):
    """The sequence that the engine would preempt: of those that run, the longest remainder's."""

    remaining: float  # tokens, median
    tokens: int  # of KV memory, at the refresh


class StepGrid(Struct, frozen=True):
    """The intervals relative to a request that starts `offset` steps after the refresh."""

    last: Floats  # (H,), in steps
    first: Floats
    steps: Floats  # how many each interval has
    logs: Floats  # (H,): ln of each interval's first step, at least 0


class _Unread(Struct):
    """What ran at a refresh and was not summed yet, and what joined, at which step, or left since.

    `now` is what they hold; None once it is not known, as a step was run or a sequence left.
    """

    running: Sequence[RunningSequence]
    changes: list[tuple[QueuedRequest, int] | str]
    now: WorstCase | None


class PageForecast:
    """Mean and variance of the pages that all sequences use in each interval ahead, (H,) each.

    `steps` were run since the refresh, at most `REFRESH_STEPS`. What ran at the refresh is summed
    when the sums are first read: many requests are admitted without them, see `now`.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._prefixes = PrefixForecast()
        self._joined: dict[str, PageUse | int] = {}  # by number: a row of `_read`
        self._read = NOTHING_USED  # of what ran at the refresh
        self._unread: _Unread | None = None
        self._victim: Victim | None = None
        self._assumed: Quantiles | None = None
        self.resize(NO_CAPACITY)

    def __len__(self) -> int:
        return len(self._joined)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._joined

    @property
    def mean(self) -> Floats:
        """The mean of all pages."""
        self._read_all()
        return self._mean

    @property
    def variance(self) -> Floats:
        """The variance of all pages."""
        self._read_all()
        return self._variance

    @property
    def victim(self) -> Victim | None:
        """What would have been preempted at the refresh; None if nothing ran."""
        self._read_all()
        return self._victim

    @property
    def now(self) -> WorstCase | None:
        """What all hold now and may at most hold later; None if that is in the sums alone."""
        return None if self._unread is None else self._unread.now

    @property
    def pages_now(self) -> float:
        """The mean of the pages that are used now."""
        if self.now is not None:
            return self.now.pages
        return float(self.mean[self.steps])

    @property
    def grid(self) -> StepGrid:
        """The intervals for a request that starts now."""
        return self._grids[self.steps]

    @property
    def prefixes(self) -> SharedPrefixes:
        """The prefixes that are held or pinned."""
        return self._prefixes.held

    def resize(self, capacity: Capacity) -> None:
        """Forget what ran: the pool has another size. Pins stay."""
        self._page_tokens = capacity.page_tokens
        count = max(interval_count(capacity.tokens), SINGLE_STEPS + 2)
        self._grids = [_step_grid(offset, count) for offset in range(REFRESH_STEPS + 1)]
        self._prefixes.resize(capacity.page_tokens, count)
        pinned = self._prefixes.total()
        self._mean, self._variance = pinned.mean, pinned.variance
        self._unread = self._victim = None
        self.steps = 0

    def assume(self, quantiles: Quantiles | None) -> None:
        """Use these quantiles for every request from the next refresh on; None: the predicted."""
        self._read_all()
        self._assumed = quantiles

    def refresh(self, running: Sequence[RunningSequence]) -> None:
        """Start again from the sequences that run now."""
        self.steps = 0
        self._joined = {sequence.id: row for row, sequence in enumerate(running)}
        self._unread = _Unread(running, [], WorstCase.of(running, self._page_tokens))
        if self._prefixes or _any_prefix(running):
            self._read_all()

    def advance(self, steps: int) -> None:
        """The engine has run this number of steps since the last call."""
        self.steps = min(self.steps + steps, REFRESH_STEPS)
        if self._unread is not None:
            self._unread.now = None

    def join(self, request: QueuedRequest) -> None:
        """A request starts now."""
        unread = self._unread
        if unread is None or request.prefix is not None:
            self.add(request, self.use_of(request))
            return
        unread.changes.append((request, self.steps))
        unread.now = None if unread.now is None else unread.now.joined(request)
        self._joined[request.id] = NOTHING_USED  # until it is summed

    def add(self, request: QueuedRequest, use: RequestUse) -> None:
        """A request starts now, whose `use_of` is this."""
        self._read_all()
        own, member = use
        self._joined[request.id] = own
        self._change(own.mean, own.variance)
        if member is not None and request.prefix is not None:
            self._add(self._prefixes.join(request.id, request.prefix, member))

    def leave(self, request_id: str) -> None:
        """A sequence left the engine. KeyError if it was not there."""
        if self._unread is not None:
            del self._joined[request_id]
            self._unread.changes.append(request_id)
            self._unread.now = None
            return
        use = self._joined.pop(request_id)
        if isinstance(use, int):
            use = PageUse(self._read.mean[use], self._read.variance[use])
        self._change(-use.mean, -use.variance)
        self._add(self._prefixes.leave(request_id))

    def drop(self, request_id: str) -> None:
        """A sequence left that was there when the sums went out of date, which a refresh mends."""
        self._read_all()
        self._joined.pop(request_id, None)

    def pin(self, prefix: SharedPrefix) -> None:
        """Count a prefix whole at every step ahead, until `unpin`."""
        self._read_all()
        self._add(self._prefixes.pin(prefix))

    def unpin(self, prefix_id: str) -> None:
        """Count a prefix only while a member lives; ignored if it is not pinned."""
        self._read_all()
        self._add(self._prefixes.unpin(prefix_id))

    def use_of(self, request: QueuedRequest) -> RequestUse:
        """Own pages of a request that starts now, and its part in its prefix's life."""
        return self.use_in(request, *self.course(request))

    def use_in(self, request: QueuedRequest, survival: Floats, pages: Floats) -> RequestUse:
        """The same by its `course`."""
        if request.prefix is None:
            mean = pages * survival
            return PageUse(mean, pages * mean * (1 - survival)), None
        own = pages - prefix_pages(request.prefix, self._page_tokens)
        mean = own * survival
        return PageUse(mean, own * mean * (1 - survival)), member_use(survival, mean)

    def course(self, request: QueuedRequest) -> tuple[Floats, Floats]:
        """P(it runs) and its pages, its prefix included, in each interval if it starts now."""
        grid = self.grid
        survival = self.survival(request).ahead(grid.logs)
        survival[grid.first.searchsorted(request.max_tokens, side="right") :] = 0.0
        tokens = request.prompt_tokens + np.minimum(grid.last, request.max_tokens)
        return survival, np.ceil(tokens / self._page_tokens)

    def survival(self, request: QueuedRequest) -> SurvivalFunction:
        """The survival function of a request that starts now."""
        quantiles = request.quantiles if self._assumed is None else self._assumed
        return survival_function(quantiles, request.max_tokens)

    def sums_with(self, request: QueuedRequest, use: RequestUse) -> tuple[Floats, Floats]:
        """Mean and variance of the pages of all and this request."""
        own, member = use
        mean, variance = self.mean + own.mean, self.variance + own.variance
        if member is not None and request.prefix is not None:
            change = self._prefixes.change(request.prefix, member)
            mean, variance = mean + change.mean, np.maximum(variance + change.variance, 0.0)
        return mean, variance

    def _read_all(self) -> None:
        """Sum what ran at the refresh, and what changed since."""
        unread, self._unread = self._unread, None
        if unread is None:
            return
        running = unread.running
        if self._assumed is not None:
            running = [structs.replace(each, quantiles=self._assumed) for each in running]
        grouped = _any_prefix(running)
        lengths = LengthDistributions.of(running)
        self._victim = _victim(running, lengths)
        pages, survivals = _pages_ahead(
            running, lengths, self._page_tokens, len(self._mean), grouped=grouped
        )
        means = pages * survivals
        self._read = PageUse(means, pages * means * (1 - survivals))
        self._joined = {sequence.id: row for row, sequence in enumerate(running)}
        self._mean, self._variance = means.sum(axis=0), self._read.variance.sum(axis=0)
        if grouped or self._prefixes:
            self._prefixes.clear()
            for sequence, mean, survival in zip(running, means, survivals, strict=True):
                if sequence.prefix is not None:
                    member = member_use(survival, mean)
                    self._prefixes.join(sequence.id, sequence.prefix, member)
            self._add(self._prefixes.total())
        steps = self.steps
        for change in unread.changes:
            if isinstance(change, str):
                self.leave(change)
            else:
                request, self.steps = change
                self.join(request)
        self.steps = steps

    def _add(self, change: PrefixUse | None) -> None:
        """Add the change of a prefix's use to the sums."""
        if change is not None:
            self._change(change.mean, change.variance)

    def _change(self, mean: Floats, variance: Floats) -> None:
        self._mean = self._mean + mean
        self._variance = np.maximum(self._variance + variance, 0.0)


def page_use_ahead(
    running: Sequence[RunningSequence], page_tokens: int, count: int
) -> tuple[Floats, Floats]:
    """Mean and variance of each sequence's own pages in `count` intervals: (n, count) each."""
    lengths = LengthDistributions.of(running)
    grouped = _any_prefix(running)
    pages, survival = _pages_ahead(running, lengths, page_tokens, count, grouped=grouped)
    return pages * survival, pages**2 * survival * (1 - survival)


def _victim(running: Sequence[RunningSequence], lengths: LengthDistributions) -> Victim | None:
    """Of those that hold memory, the one with the longest remainder; the larger of equals."""
    held = np.array([not each.suspended for each in running], np.bool_)
    if not held.any():
        return None
    remaining = np.where(held, lengths.remaining_quantile(0.5), 0.0)
    longest = float(remaining.max())
    equals = np.flatnonzero(remaining >= longest * (1 - EPSILON)).tolist()
    return Victim(longest, max(running[each].kv_tokens for each in equals))


def _pages_ahead(
    running: Sequence[RunningSequence],
    lengths: LengthDistributions,
    page_tokens: int,
    count: int,
    *,
    grouped: bool,
) -> tuple[Floats, Floats]:
    """Each sequence's own pages while it runs, and P(it runs): (n, count) each."""
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


@lru_cache(maxsize=256)
def _step_grid(offset: int, count: int) -> StepGrid:
    """The same for all pools of a size: several engines read it in turn."""
    last = np.maximum(INTERVAL_ENDS[:count] - offset, 0.0)
    first = np.maximum(INTERVAL_STARTS[:count] - offset, 0.0)
    return StepGrid(last, first, last - first + 1, np.log(np.maximum(first, 1.0)))
