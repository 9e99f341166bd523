"""Queued requests of one tenant with similar cost: a batch of similar length."""

from itertools import takewhile
from math import floor, log
from typing import Final, TypeAlias

from msgspec import Struct

from gateway.scheduling.lazy_heap import LazyHeap
from gateway.scheduling.lmaas.fcfs_reference import Turn, WaitingCredit
from gateway.scheduling.requests import QueuedRequest

MAX_COST_RATIO: Final = 1.5  # of the highest to the lowest cost within a class
_LOG_COST_RATIO: Final = log(MAX_COST_RATIO)

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


def class_key(entry: QueueEntry) -> ClassKey:
    """The class of a request."""
    request = entry.request
    return request.urgency, floor(log(entry.cost) / _LOG_COST_RATIO)


class CostClass:
    """The members of one class by `virtual_arrival_s`; the first determines the class's rank."""

    def __init__(self, key: ClassKey, name: str) -> None:
        self.name = name
        self.members: dict[int, QueueEntry] = {}
        self._waits: LazyHeap[float, QueueEntry] = LazyHeap(self.members)
        self._urgency, level = key
        self._log_worth = log(self._urgency) - (level + 0.5) * _LOG_COST_RATIO

    def add(self, entry: QueueEntry) -> None:
        """Add a member."""
        self.members[entry.serial] = entry
        self._waits.push(entry.virtual_arrival_s, entry.serial)

    def remove(self, entry: QueueEntry) -> None:
        """Remove a member. KeyError if it is none."""
        del self.members[entry.serial]

    def first(self, count: int) -> list[QueueEntry]:
        """The `count` members with the longest wait, in order."""
        return self._waits.first(count)

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
