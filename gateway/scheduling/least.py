"""The least key among things that come and go."""

from collections.abc import Sized
from heapq import heapify, heappop, heappush
from typing import Protocol


class Live(Sized, Protocol):
    """Tells which serial numbers are still there."""

    def __contains__(self, serial: object, /) -> bool: ...


class Least:
    """A heap of (key, serial) beside a collection that says which serials live.

    The dead are dropped when they surface, or all at once when they outnumber the living, so
    every operation costs O(log n) amortised and a removal nothing. A serial is never reused.
    """

    __slots__ = ("_heap", "_live")

    def __init__(self, live: Live) -> None:
        self._live = live
        self._heap: list[tuple[float, int]] = []

    def push(self, key: float, serial: int) -> None:
        """Enter a serial that lives."""
        if len(self._heap) > 2 * len(self._live) + 8:
            self._heap = [entry for entry in self._heap if entry[1] in self._live]
            heapify(self._heap)
        heappush(self._heap, (key, serial))

    def top(self) -> tuple[float, int]:
        """The least (key, serial) that lives. IndexError when there is none."""
        while self._heap[0][1] not in self._live:
            heappop(self._heap)
        return self._heap[0]

    def first(self, count: int) -> list[int]:
        """The `count` serials of least key, in order; fewer when fewer live."""
        found: list[tuple[float, int]] = []
        while self._heap and len(found) < count:
            entry = heappop(self._heap)
            if entry[1] in self._live:
                found.append(entry)
        for entry in found:
            heappush(self._heap, entry)
        return [serial for _, serial in found]
