"""The least key among things that come and go: a heap with lazy deletion."""

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from math import inf
from typing import Final, Generic, TypeVar

K = TypeVar("K", float, tuple[float, str])
T = TypeVar("T")

MIN_DEAD: Final = 8  # entries; fewer are not worth a sweep


class LazyHeap(Generic[K, T]):
    """A heap of (key, serial) over a mapping that says which serials live, and what they are.

    A removal from the mapping costs the heap nothing: the dead are dropped when they surface, or
    all at once when they outnumber the living. Then at least half of what a sweep looks at goes for
    good, so that each operation costs O(log n) amortised, and the heap never holds more than
    2n + `MIN_DEAD` entries after a push. A serial is entered once and never reused.
    """

    __slots__ = ("_heap", "_live")

    def __init__(self, live: Mapping[int, T]) -> None:
        self._live = live
        self._heap: list[tuple[K, int]] = []

    def push(self, key: K, serial: int) -> None:
        """Enter a serial that lives."""
        heappush(self._heap, (key, serial))
        if len(self._heap) > 2 * len(self._live) + MIN_DEAD:
            self._heap = [entry for entry in self._heap if entry[1] in self._live]
            heapify(self._heap)

    def least_key(self) -> K:
        """The least key that lives. IndexError where none does."""
        while self._heap[0][1] not in self._live:
            heappop(self._heap)
        return self._heap[0][0]

    def least(self) -> T | None:
        """What lives with the least key, of equals the lowest serial; None where nothing does."""
        while self._heap:
            serial = self._heap[0][1]
            if serial in self._live:
                return self._live[serial]
            heappop(self._heap)
        return None

    def first(self, count: int) -> list[T]:
        """The `count` of least key, in order; fewer where fewer live."""
        found: list[tuple[K, int]] = []
        while self._heap and len(found) < count:
            entry = heappop(self._heap)
            if entry[1] in self._live:
                found.append(entry)
        for entry in found:
            heappush(self._heap, entry)
        return [self._live[serial] for _, serial in found]

    def pop_before(self, key: K) -> list[T]:
        """Take out what has a lesser key, in order; what lives of it."""
        return self._pop((key, -1))

    def pop_through(self, key: K) -> list[T]:
        """Take out what has this key or a lesser one, in order; what lives of it."""
        return self._pop((key, inf))

    def _pop(self, bound: tuple[K, float]) -> list[T]:
        found: list[T] = []
        while self._heap and self._heap[0] < bound:
            serial = heappop(self._heap)[1]
            if serial in self._live:
                found.append(self._live[serial])
        return found
