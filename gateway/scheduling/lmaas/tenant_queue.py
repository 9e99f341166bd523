"""The queue of one tenant, and which of its requests are next."""

from collections.abc import Callable, Iterator
from itertools import takewhile
from math import inf
from typing import Final

from msgspec import Struct

from gateway.scheduling.dispatch import DispatchReason
from gateway.scheduling.lazy_heap import LazyHeap
from gateway.scheduling.lmaas.cost_class import ClassKey, CostClass, QueueEntry, class_key
from gateway.scheduling.lmaas.deadlines import Deadlines, StartLimits
from gateway.scheduling.lmaas.fcfs_reference import FcfsReference, WaitNormaliser
from gateway.scheduling.lmaas.inner_shares import INNER_LEVELS, Level, Parts, ShareLevel
from gateway.scheduling.requests import QueuedRequest

MAX_PER_DISPATCH: Final = 8  # requests
MAX_LEAD: Final = 2.0  # of an app or user over others, in service that runs on average
CROWDED_WEIGHT: Final = 0.3  # of the weight of waiting, while the deadlines of many are at risk
SHARED_WAIT: Final = 0.3  # T of those whose share is due, in waits of their oldest
RUNNING_DECAY: Final = 0.99  # of a start's weight in that average, per later start


class OrderBounds(Struct, frozen=True):
    """How the order weighs waiting against cost, and how far it may depart from FCFS.

    A request that has waited T, the response time under first come, first served (FCFS), goes
    before a new one that costs e^`waiting_weight` times less. It starts at most `max_delay_s`,
    divided by its urgency, after its turn under FCFS, plus one wait for admission; None sets no
    bound.
    """

    max_delay_s: float | None = 60.0
    waiting_weight: float = 3.0


class Candidates(Struct, frozen=True):
    """The next requests in order, of which as many start as fit, and the reason for them."""

    entries: list[QueueEntry]
    reason: DispatchReason


class TenantQueue:
    """One tenant's queued requests, in cost classes; the class of highest rank is next.

    Before the ranks come requests held back for as long as the bound allows (overdue), oldest
    first, then, while they are few, late requests, earliest deadline first. While the deadlines of
    many are at risk, waiting counts less in the ranks, so that more end in time. Whatever would be
    next waits if its app or user leads another by more than `MAX_LEAD`; then the highest rank among
    the others is next.
    """

    def __init__(
        self, bounds: OrderBounds, names: Iterator[str], shares: ShareLevel = "user"
    ) -> None:
        self._bounds = bounds
        self._names = names
        self._entries: dict[int, QueueEntry] = {}
        self._arrival: LazyHeap[float, QueueEntry] = LazyHeap(self._entries)
        self._classes: dict[ClassKey, CostClass] = {}
        self._fcfs = FcfsReference[QueueEntry]()
        self._normaliser = WaitNormaliser()
        self._becoming_overdue: LazyHeap[float, QueueEntry] = LazyHeap(self._entries)
        self._overdue: LazyHeap[float, QueueEntry] = LazyHeap(self._entries)  # by arrival
        self._deadlines = Deadlines(self._entries)
        levels = INNER_LEVELS[shares]
        self._parts = Parts(levels) if levels else None
        self._running = 0.0  # service
        self._mean_running = 0.0  # at recent starts
        self._weight = 0.0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def class_count(self) -> int:
        """Number of classes with queued requests."""
        return len(self._classes)

    @property
    def gain_per_s(self) -> float:
        """The increase of a rank (a logarithm) per second of waiting, at urgency 1."""
        return self._waiting_weight / self._normaliser.seconds

    def credit_s(self, serving_s: float) -> float:
        """The waiting credit of a request of this serving time that arrives now."""
        return self._normaliser.credit(serving_s).seconds

    def add(self, entry: QueueEntry, limits: StartLimits, now_s: float) -> None:
        """Queue a request."""
        entry.credit = self._normaliser.arrived(entry.serving_s)
        self._entries[entry.serial] = entry
        self._arrival.push(entry.request.arrived_s, entry.serial)
        entry.turn = self._fcfs.arrive(entry, entry.cost)
        self._deadlines.add(entry, limits)
        self._enter_class(entry)
        if self._parts is not None:
            self._parts.add(entry)
        self._record_turns(now_s)

    def revise(
        self,
        entry: QueueEntry,
        request: QueuedRequest,
        *,
        serving_s: float,
        cost: float,
        limits: StartLimits,
        now_s: float,
    ) -> None:
        """Take a queued request as if it had arrived with this prediction; O(log n) amortised.

        So its serving time S, cost and limits are new, and it keeps its place in order of arrival.
        """
        assert entry.credit is not None
        assert entry.turn is not None
        self._leave_class(entry)
        self._deadlines.remove(entry)
        self._normaliser.revised(entry.credit, serving_s)
        self._fcfs.revise(entry.turn, cost)
        entry.request, entry.serving_s, entry.cost = request, serving_s, cost
        self._deadlines.add(entry, limits)
        self._enter_class(entry)
        self._record_turns(now_s)

    def remove(self, entry: QueueEntry, now_s: float) -> None:
        """A request started or was withdrawn. KeyError if it is not queued here."""
        del self._entries[entry.serial]
        self._fcfs.start(entry.cost)
        self._deadlines.remove(entry)
        self._leave_class(entry)
        if self._parts is not None:
            self._parts.remove(entry)
        entry.turn = None  # which refers to the entry: a cycle would live until garbage is searched
        self._record_turns(now_s)

    def reset_limits(self, start_limits: Callable[[QueuedRequest], StartLimits]) -> None:
        """Recompute when the queued requests become late and infeasible."""
        self._deadlines = Deadlines(self._entries)
        for entry in self._entries.values():
            self._deadlines.add(entry, start_limits(entry.request))

    def infeasible(self, now_s: float) -> list[QueueEntry]:
        """Requests whose deadline can no longer be met; each is returned once."""
        return self._deadlines.infeasible(now_s)

    def started(self, request: QueuedRequest, tokens: float) -> None:
        """Charge the service of a request that starts to its app and user."""
        self._weight = RUNNING_DECAY * self._weight + 1
        self._mean_running += (self._running + tokens - self._mean_running) / self._weight
        self.corrected(request, tokens)

    def corrected(self, request: QueuedRequest, tokens: float) -> None:
        """Correct the service of a request that runs, or has just ended."""
        self._running += tokens
        if self._parts is not None:
            self._parts.charge(request, tokens * request.part_weight)

    def ended(self, tokens: float) -> None:
        """A request ended whose service was this."""
        self._running -= tokens

    def next(self, now_s: float, *, by_arrival: bool) -> Candidates:
        """The next requests, which nothing else may pass. IndexError if the queue is empty."""
        candidates = self._next(now_s, by_arrival=by_arrival)
        parts = self._parts
        if parts is None:
            return candidates
        allowed = list(takewhile(self._is_allowed, candidates.entries))
        if allowed:
            return Candidates(allowed, candidates.reason)
        least = parts.least_served()
        return Candidates([self._best_allowed(now_s, least) or least], "share")

    def holding_back(self, request: QueuedRequest) -> Level | None:
        """Whether a queued request waits for its app's share or its user's."""
        return None if self._parts is None else self._parts.holding_back(request, self._max_lead)

    def _is_allowed(self, entry: QueueEntry) -> bool:
        """Whether a request's app and user may go on."""
        return self.holding_back(entry.request) is None

    def _best_allowed(self, now_s: float, least: QueueEntry) -> QueueEntry | None:
        """The request of highest rank among those whose app and user may go on.

        T is part of the wait of the oldest of those that were served least: the longest wait of
        the tenant is that of the one that floods.
        """
        response_s = self._normaliser.seconds_after(SHARED_WAIT * (now_s - least.request.arrived_s))
        gain_per_s = self._waiting_weight / response_s
        best, highest = None, -inf
        for batch in self._classes.values():
            entry = batch.first_of_part(self._is_allowed)
            if entry is not None:
                rank = batch.rank_of(entry, now_s, gain_per_s)
                if rank > highest:
                    best, highest = entry, rank
        return best

    @property
    def _waiting_weight(self) -> float:
        weight = self._bounds.waiting_weight
        return weight * CROWDED_WEIGHT if self._deadlines.crowded(len(self._entries)) else weight

    @property
    def _max_lead(self) -> float:
        return MAX_LEAD * self._mean_running

    def _next(self, now_s: float, *, by_arrival: bool) -> Candidates:
        """The next requests of the whole tenant."""
        overdue = self._most_overdue(now_s)
        late = self._deadlines.late(now_s, len(self._entries))
        if overdue is not None:
            return Candidates([overdue], "overdue")
        if late is not None:
            return Candidates([late], "late")
        if by_arrival:
            return Candidates(self.first(MAX_PER_DISPATCH), "arrival")
        return Candidates(self._best(now_s), "rank")

    def first(self, count: int) -> list[QueueEntry]:
        """The `count` oldest requests, in order of arrival."""
        return self._arrival.first(count)

    def batches(self, now_s: float, *, by_arrival: bool) -> list[CostClass]:
        """The queued batches, highest rank first, or by the arrival of their oldest member."""
        if by_arrival:
            return sorted(self._classes.values(), key=lambda batch: batch.oldest_s)
        gain_per_s = self.gain_per_s
        return sorted(self._classes.values(), key=lambda b: b.rank(now_s, gain_per_s), reverse=True)

    def _enter_class(self, entry: QueueEntry) -> None:
        assert entry.credit is not None
        entry.virtual_arrival_s = entry.request.arrived_s - entry.credit.seconds
        key = class_key(entry)
        if key not in self._classes:
            self._classes[key] = CostClass(key, next(self._names))
        self._classes[key].add(entry)

    def _leave_class(self, entry: QueueEntry) -> None:
        key = class_key(entry)
        self._classes[key].remove(entry)
        if not self._classes[key].members:
            del self._classes[key]

    def _best(self, now_s: float) -> list[QueueEntry]:
        """The members of the highest-ranked batch that rank above the second batch."""
        gain_per_s = self.gain_per_s
        best, highest, second = None, -inf, -inf
        for batch in self._classes.values():
            rank = batch.rank(now_s, gain_per_s)
            if rank > highest:
                best, highest, second = batch, rank, highest
            elif rank > second:
                second = rank
        return best.above(second, now_s, gain_per_s, MAX_PER_DISPATCH) if best else []

    def _record_turns(self, now_s: float) -> None:
        """Start the delay bound of requests whose turn under FCFS has come."""
        max_delay_s = self._bounds.max_delay_s
        for entry in self._fcfs.due():
            self._normaliser.turn_came(now_s - entry.request.arrived_s)
            if max_delay_s is not None and entry.serial in self._entries:
                due_s = now_s + max_delay_s / entry.request.urgency
                self._becoming_overdue.push(due_s, entry.serial)

    def _most_overdue(self, now_s: float) -> QueueEntry | None:
        for entry in self._becoming_overdue.pop_through(now_s):
            self._overdue.push(entry.request.arrived_s, entry.serial)
        return self._overdue.peek()

    def check(self) -> None:
        """AssertionError if the views of the queue disagree."""
        members = {serial for batch in self._classes.values() for serial in batch.members}
        assert members == self._entries.keys()
        assert all(batch.members for batch in self._classes.values())
        if self._parts is not None:
            self._parts.check()
