"""Waiting requests of one tenant that cost about as much: a batch of similar length."""

from itertools import takewhile
from math import floor, log
from typing import Final, TypeAlias

from msgspec import Struct

from gateway.scheduling.lazy_heap import LazyHeap
from gateway.scheduling.requests import QueuedRequest

WIDTH: Final = 1.5  # cost of the dearest of a class by that of the cheapest
_LOG_WIDTH: Final = log(WIDTH)

ClassKey: TypeAlias = tuple[float, int]
"""Model, urgency and level: `WIDTH`ⁿ ≤ cost < `WIDTH`ⁿ⁺¹ KV token-steps."""


class Entry(Struct, eq=False):
    """A request from its arrival to its start.

    `serving_s` is S, how long it will run; `cost` what it takes of the engine, in KV token-steps.
    Its wait counts from `since_s`. `serial` is unique.
    """

    serial: int
    request: QueuedRequest
    serving_s: float
    cost: float
    since_s: float = 0.0


def class_of(entry: Entry) -> ClassKey:
    """The class that a request belongs to."""
    request = entry.request
    return request.urgency, floor(log(entry.cost) / _LOG_WIDTH)


class CostClass:
    """The members of one class, in the order of `since_s`; ranked by the first of them."""

    def __init__(self, key: ClassKey, name: str) -> None:
        self.name = name
        self.members: dict[int, Entry] = {}
        self._waits: LazyHeap[float, Entry] = LazyHeap(self.members)
        self._urgency, level = key
        self._log_worth = log(self._urgency) - (level + 0.5) * _LOG_WIDTH

    def add(self, entry: Entry) -> None:
        """Take a member in."""
        self.members[entry.serial] = entry
        self._waits.push(entry.since_s, entry.serial)

    def remove(self, entry: Entry) -> None:
        """Let a member go. KeyError if it is none."""
        del self.members[entry.serial]

    def first(self, count: int) -> list[Entry]:
        """The `count` members of the longest wait, in that order."""
        return self._waits.first(count)

    @property
    def oldest_s(self) -> float:
        """Arrival of the member that came first: O(n)."""
        return min(entry.request.arrived_s for entry in self.members.values())

    def rank(self, now_s: float, a_second: float) -> float:
        """Logarithm of urgency·exp(`a_second`·urgency·W)/cost, W the wait of its first.

        The response ratio W/S with waits that count exponentially: for jobs of known lengths that
        are not heavy-tailed, one after another, no order has a lighter tail where `a_second` is the
        rate at which that of first come, first served falls off (Boost; Yu and Scully, SIGMETRICS
        2024).
        """
        return self._rank(now_s - self._waits.least_key(), a_second)

    def above(self, rank: float, now_s: float, a_second: float, most: int) -> list[Entry]:
        """Its first and whoever else ranks as high by its own wait, `most` of them at most."""
        first, *others = self.first(most)
        high = takewhile(lambda e: self._rank(now_s - e.since_s, a_second) >= rank, others)
        return [first, *high]

    def _rank(self, waited_s: float, a_second: float) -> float:
        return a_second * self._urgency * waited_s + self._log_worth
