"""Queued requests of one tenant with similar cost: a batch of similar length."""

from collections.abc import Callable, Iterator
from itertools import count, takewhile
from math import floor, log
from typing import Final, TypeAlias

from msgspec import Struct

from gateway.scheduling.lazy_heap import LazyHeap
from gateway.scheduling.lmaas.fcfs_reference import Turn, WaitingCredit
from gateway.scheduling.requests import QueuedRequest

MAX_COST_RATIO: Final = 1.5  # of the highest to the lowest cost within a class
MAX_PARTS: Final = 8  # users whose first members are looked at, one after another
_LOG_COST_RATIO: Final = log(MAX_COST_RATIO)

PartKey: TypeAlias = tuple[str, str]
"""App and user."""

ClassKey: TypeAlias = tuple[float, int]
"""Urgency and level n: `MAX_COST_RATIO`ⁿ ≤ cost < `MAX_COST_RATIO`ⁿ⁺¹ KV token-steps."""


class QueueEntry(Struct, eq=False):
    """A request from its arrival to its start.

    `serving_s` is its estimated serving time S, `cost` is in KV token-steps. Its wait counts from
    `virtual_arrival_s`, at or before its arrival, by its waiting credit. `serial` is unique.
    """

    serial: int
    request: QueuedRequest
    serving_s: float
    cost: float
    virtual_arrival_s: float = 0.0
    credit: WaitingCredit | None = None
    turn: Turn["QueueEntry"] | None = None

    def rank(self, now_s: float, gain_per_s: float) -> float:
        """The rank that a class of requests of exactly this cost would have, see `CostClass`."""
        waited_s, urgency = now_s - self.virtual_arrival_s, self.request.urgency
        return gain_per_s * urgency * waited_s + log(urgency / self.cost)


def class_key(entry: QueueEntry) -> ClassKey:
    """The class of a request."""
    request = entry.request
    return request.urgency, floor(log(entry.cost) / _LOG_COST_RATIO)


def part_key(entry: QueueEntry) -> PartKey:
    """The app and user of a request."""
    return entry.request.app, entry.request.user


class PartMembers:
    """The members of one class that are of one user of an app, by `virtual_arrival_s`."""

    def __init__(self) -> None:
        self.members: dict[int, QueueEntry] = {}
        self.waits: LazyHeap[float, QueueEntry] = LazyHeap(self.members)


class CostClass:
    """The members of one class by `virtual_arrival_s`; the first determines the class's rank."""

    def __init__(self, key: ClassKey, name: str) -> None:
        self.name = name
        self.members: dict[int, QueueEntry] = {}
        self._waits: LazyHeap[float, QueueEntry] = LazyHeap(self.members)
        self._serials = count()
        self._serial_of: dict[PartKey, int] = {}
        self._parts: dict[int, PartMembers] = {}
        self._firsts: LazyHeap[float, PartMembers] = LazyHeap(self._parts)
        self._urgency, level = key
        self._log_worth = log(self._urgency) - (level + 0.5) * _LOG_COST_RATIO

    def add(self, entry: QueueEntry) -> None:
        """Add a member."""
        self.members[entry.serial] = entry
        self._waits.push(entry.virtual_arrival_s, entry.serial)
        key = part_key(entry)
        serial = self._serial_of.get(key)
        if serial is None:
            serial = self._serial_of[key] = next(self._serials)
            self._parts[serial] = PartMembers()
        part = self._parts[serial]
        part.members[entry.serial] = entry
        part.waits.push(entry.virtual_arrival_s, entry.serial)
        if part.waits.peek() is entry:
            self._firsts.push(entry.virtual_arrival_s, serial)

    def remove(self, entry: QueueEntry) -> None:
        """Remove a member. KeyError if it is none."""
        del self.members[entry.serial]
        serial = self._serial_of[part_key(entry)]
        part = self._parts[serial]
        was_first = part.waits.peek() is entry
        del part.members[entry.serial]
        if not part.members:
            del self._parts[serial], self._serial_of[part_key(entry)]
        elif was_first:
            self._firsts.push(part.waits.min_key(), serial)

    def first(self, count: int) -> list[QueueEntry]:
        """The `count` members with the longest wait, in order."""
        return self._waits.first(count)

    def ordered(self) -> Iterator[QueuedRequest]:
        """The requests, longest wait first; change nothing meanwhile."""
        return (entry.request for entry in self._waits)

    def first_of_part(self, allowed: Callable[[QueueEntry], bool]) -> QueueEntry | None:
        """The first member whose part is allowed, of the `MAX_PARTS` parts that are first."""
        looked_at = 0
        for most in (1, MAX_PARTS):  # mostly one suffices
            for part in self._firsts.first(most)[looked_at:]:
                first = part.waits.peek()
                if first is not None and allowed(first):
                    return first
            looked_at = most
        return None

    @property
    def oldest_s(self) -> float:
        """Arrival time of the oldest member, in O(n)."""
        return min(entry.request.arrived_s for entry in self.members.values())

    def rank(self, now_s: float, gain_per_s: float) -> float:
        """Logarithm of urgency·exp(`gain_per_s`·urgency·W)/cost, W the wait of the first member.

        This is a response ratio in which waiting counts exponentially. For jobs of known,
        light-tailed length that run one after another, no order has a lighter tail of response
        times if `gain_per_s` is the decay rate of the tail under first come, first served (Boost;
        Yu and Scully, SIGMETRICS 2024).
        """
        return self._rank(now_s - self._waits.min_key(), gain_per_s)

    def rank_of(self, entry: QueueEntry, now_s: float, gain_per_s: float) -> float:
        """The rank that the class would have if this member were its first."""
        return self._rank(now_s - entry.virtual_arrival_s, gain_per_s)

    def above(
        self, rank: float, now_s: float, gain_per_s: float, max_count: int
    ) -> list[QueueEntry]:
        """The first member, and those after it that reach `rank` by their own wait.

        At most `max_count` members.
        """
        first, *others = self.first(max_count)
        high = takewhile(
            lambda e: self._rank(now_s - e.virtual_arrival_s, gain_per_s) >= rank, others
        )
        return [first, *high]

    def _rank(self, waited_s: float, gain_per_s: float) -> float:
        return gain_per_s * self._urgency * waited_s + self._log_worth
