"""A priority queue with lazy deletion."""

from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush
from math import inf
from typing import Final, Generic, TypeVar

K = TypeVar("K", float, tuple[float, str])
T = TypeVar("T")

MIN_STALE_ENTRIES: Final = 8  # fewer are not worth a rebuild


class LazyHeap(Generic[K, T]):
    """A min-heap of (key, serial) over a mapping from each live serial to its item.

    Items are removed from the mapping alone. The heap drops a stale entry when it reaches the top,
    or rebuilds once stale entries outnumber live ones; a rebuild discards at least half of the
    entries, so each operation costs O(log n) amortised. After a push the heap holds at most
    2n + `MIN_STALE_ENTRIES` entries for n live ones. A serial is never reused for another item; a
    serial that is pushed again has the newest key alone.
    """

    __slots__ = ("_heap", "_live", "_newest", "_pushes")

    def __init__(self, live: Mapping[int, T]) -> None:
        self._live = live
        self._heap: list[tuple[K, int, int]] = []  # key, serial, number of the push
        self._newest: dict[int, int] = {}  # of each serial in the heap, its last push
        self._pushes = 0

    def __iter__(self) -> Iterator[T]:
        """The live items in order, O(log n) for each that is read. Change nothing meanwhile."""
        self.peek()  # drops stale entries from the top for good
        heap = self._heap
        front = [(heap[0], 0)] if heap else []  # with their places: the next one is among these
        while front:
            entry, place = heappop(front)
            if self._is_live(entry):
                yield self._live[entry[1]]
            for child in range(2 * place + 1, min(2 * place + 3, len(heap))):
                heappush(front, (heap[child], child))

    def push(self, key: K, serial: int) -> None:
        """Add a live serial, or change the key of one."""
        self._pushes += 1
        self._newest[serial] = self._pushes
        heappush(self._heap, (key, serial, self._pushes))
        if len(self._heap) > 2 * len(self._live) + MIN_STALE_ENTRIES:
            self._heap = [entry for entry in self._heap if self._is_live(entry)]
            self._newest = {serial: push for _, serial, push in self._heap}
            heapify(self._heap)

    def min_key(self) -> K:
        """The lowest live key. IndexError if nothing is live."""
        while not self._is_live(self._heap[0]):
            self._pop_first()
        return self._heap[0][0]

    def peek(self) -> T | None:
        """The live item of the lowest key, ties by serial; None if nothing is live."""
        while self._heap:
            if self._is_live(self._heap[0]):
                return self._live[self._heap[0][1]]
            self._pop_first()
        return None

    def first(self, count: int) -> list[T]:
        """The `count` live items of lowest key, in order; fewer if fewer are live."""
        found: list[tuple[K, int, int]] = []
        while self._heap and len(found) < count:
            if self._is_live(self._heap[0]):
                found.append(heappop(self._heap))
            else:
                self._pop_first()
        for entry in found:
            heappush(self._heap, entry)
        return [self._live[serial] for _, serial, _ in found]

    def pop_before(self, key: K) -> list[T]:
        """Remove the entries below this key; their live items, in order."""
        return self._pop((key, -1))

    def pop_through(self, key: K) -> list[T]:
        """Remove the entries up to and including this key; their live items, in order."""
        return self._pop((key, inf))

    def _pop(self, bound: tuple[K, float]) -> list[T]:
        found: list[T] = []
        while self._heap and self._heap[0] < bound:
            live = self._is_live(self._heap[0])
            serial = self._pop_first()
            if live:
                found.append(self._live[serial])
        return found

    def _is_live(self, entry: tuple[K, int, int]) -> bool:
        _, serial, push = entry
        return serial in self._live and self._newest.get(serial) == push

    def _pop_first(self) -> int:
        """Remove the first entry for good; its serial."""
        _, serial, push = heappop(self._heap)
        if self._newest.get(serial) == push:
            del self._newest[serial]
        return serial
