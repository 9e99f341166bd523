"""Requests with a deadline: which are late, and which cannot be met any more."""

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from math import inf

from msgspec import Struct

from gateway.scheduling.entry import Entry
from gateway.scheduling.waiting import Waiting


class Window(Struct, frozen=True):
    """When a request has to start, on the scheduler's clock; inf where it does not matter.

    From `late_s` on it goes before all but the overdue; after `hopeless_s` it is not worth a start.
    """

    late_s: float
    hopeless_s: float


def window_of(
    request: Waiting, seconds: Callable[[float], float], *, trusted: bool = True
) -> Window:
    """When a request has to start, where a generation of so many tokens takes `seconds(tokens)`.

    It is late once an answer as long as its 0.9 quantile might miss the deadline. It is hopeless
    once an answer would that only one in thirty comes below: the length as far below the 0.1
    quantile as that is below the 0.25 quantile. Predictions that are not trusted condemn nobody.
    """
    late_s = hopeless_s = inf
    if request.deadline_s is not None:
        low, lower = request.quantiles[:2]
        late_s = request.deadline_s - seconds(request.quantiles[4])
        hopeless_s = request.deadline_s - (seconds(low * low / lower) if trusted else 0.0)
    if request.start_by_s is not None:
        hopeless_s = min(hopeless_s, request.start_by_s)
    return Window(late_s, hopeless_s)


class Deadlines:
    """Entries by the time at which they become late, and then hopeless."""

    def __init__(self) -> None:
        self._becoming_late: list[tuple[float, int, Entry]] = []
        self._late: list[tuple[float, int, Entry]] = []
        self._becoming_hopeless: list[tuple[float, int, Entry]] = []
        self._adds = 0

    def add(self, entry: Entry, window: Window) -> None:
        """Watch an entry."""
        if window.late_s < inf:
            heappush(self._becoming_late, (window.late_s, entry.serial, entry))
        if window.hopeless_s < inf:
            heappush(self._becoming_hopeless, (window.hopeless_s, entry.serial, entry))
            self._forget_gone()

    def late(self, now_s: float) -> Entry | None:
        """Of the late ones that wait, the one whose deadline is next."""
        while self._becoming_late and self._becoming_late[0][0] <= now_s:
            entry = heappop(self._becoming_late)[2]
            deadline_s = entry.request.deadline_s
            assert deadline_s is not None
            heappush(self._late, (deadline_s, entry.serial, entry))
        while self._late and not self._late[0][2].waits:
            heappop(self._late)
        return self._late[0][2] if self._late else None

    def hopeless(self, now_s: float) -> Iterator[Entry]:
        """Waiting entries that cannot be met any more; each is told once."""
        while self._becoming_hopeless and self._becoming_hopeless[0][0] < now_s:
            entry = heappop(self._becoming_hopeless)[2]
            if entry.waits:
                yield entry

    def _forget_gone(self) -> None:
        """Drop what does not wait any more, each time as many have come as were kept before."""
        self._adds += 1
        if self._adds < len(self._becoming_hopeless) // 2 + 16:
            return
        self._adds = 0
        for heap in (self._becoming_late, self._becoming_hopeless):
            heap[:] = [item for item in heap if item[2].waits]
            heapify(heap)
