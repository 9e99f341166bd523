"""Waiting requests of one tenant that run about as long: a batch of similar length."""

from itertools import takewhile
from math import floor, log
from typing import Final, TypeAlias

from gateway.scheduling.entry import Entry
from gateway.scheduling.least import Least

WIDTH: Final = 1.25  # serving time of the longest of a class by that of the shortest
_LOG_WIDTH: Final = log(WIDTH)
SHORTEST_WAIT_S: Final = 1e-3

ClassKey: TypeAlias = tuple[str, float, int]
"""Model, urgency and level: `WIDTH`ⁿ ≤ S < `WIDTH`ⁿ⁺¹ seconds."""


def class_of(entry: Entry) -> ClassKey:
    """The class that a request belongs to."""
    request = entry.request
    return request.model, request.urgency, floor(log(entry.serving_s) / _LOG_WIDTH)


class LengthClass:
    """The members of one class, oldest first; ranked by its oldest."""

    def __init__(self, key: ClassKey, name: str) -> None:
        self.name = name
        self.members: dict[int, Entry] = {}
        self._arrival = Least(self.members)
        _, self._urgency, level = key
        self._log_serving = (level + 0.5) * _LOG_WIDTH

    def add(self, entry: Entry) -> None:
        """Take a member in."""
        self.members[entry.serial] = entry
        self._arrival.push(entry.request.arrived_s, entry.serial)

    def remove(self, entry: Entry) -> None:
        """Let a member go. KeyError if it is none."""
        del self.members[entry.serial]

    def first(self, count: int) -> list[Entry]:
        """The `count` members that arrived first, in that order."""
        return [self.members[serial] for serial in self._arrival.first(count)]

    @property
    def oldest_s(self) -> float:
        """Arrival of the member that has waited longest."""
        return self._arrival.top()[0]

    def rank(self, now_s: float, power: float) -> float:
        """Logarithm of (urgency·W)^power/S, W the wait of its oldest.

        With a power of 1 this orders as the response ratio does, as 1 + W/S does by W/S; with less
        it comes near to shortest first (0), with more to first come, first served.
        """
        return self._rank(now_s - self.oldest_s, power)

    def above(self, rank: float, now_s: float, power: float, most: int) -> list[Entry]:
        """Its oldest and whoever else ranks as high by its own wait, `most` of them at most."""
        first, *others = self.first(most)
        high = takewhile(lambda e: self._rank(now_s - e.request.arrived_s, power) >= rank, others)
        return [first, *high]

    def _rank(self, waited_s: float, power: float) -> float:
        return power * log(max(waited_s * self._urgency, SHORTEST_WAIT_S)) - self._log_serving
