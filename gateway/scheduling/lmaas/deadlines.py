"""Requests with a deadline: which are late, and which cannot be met any more.

In overload the earliest deadline first brings every request to its start when it is nearly too
late, and hardly any to its end in time (Locke, Best-effort decision making for real-time
scheduling, 1986). So the late go first only while they are few and will probably be in time.
"""

from collections.abc import Callable, Mapping
from math import inf
from typing import Final

from msgspec import Struct

from gateway.scheduling.lazy_heap import LazyHeap
from gateway.scheduling.lmaas.cost_class import Entry
from gateway.scheduling.requests import QueuedRequest

MOST_LATE: Final = 0.25  # of those waiting; where there are more, nobody goes first for it


class Window(Struct, frozen=True):
    """When a request has to start, on the scheduler's clock; inf where it does not matter.

    From `late_s` to `unlikely_s` it is late; after `hopeless_s` it is not worth a start.
    """

    late_s: float
    unlikely_s: float
    hopeless_s: float


def window_of(
    request: QueuedRequest, seconds: Callable[[float], float], *, trusted: bool = True
) -> Window:
    """When a request has to start, where a generation of so many tokens takes `seconds(tokens)`.

    It is late once an answer as long as its 0.9 quantile might miss the deadline, and unlikely to
    be in time once its median would. It is hopeless once an answer would that hardly one in a
    hundred comes below: the length twice as far below the 0.1 quantile as that is below the 0.25
    quantile, on logarithms. Predictions that are not trusted condemn nobody.
    """
    late_s = unlikely_s = hopeless_s = inf
    if request.deadline_s is not None:
        low, lower = request.quantiles[:2]
        late_s = request.deadline_s - seconds(request.upper)
        unlikely_s = request.deadline_s - seconds(request.median)
        hopeless_s = request.deadline_s - (seconds(low**3 / lower**2) if trusted else 0.0)
    if request.start_by_s is not None:
        hopeless_s = min(hopeless_s, request.start_by_s)
    return Window(late_s, unlikely_s, hopeless_s)


class Deadlines:
    """Waiting entries, by serial, by the times at which they become late, unlikely and hopeless."""

    def __init__(self, entries: Mapping[int, Entry]) -> None:
        self._becoming_late: LazyHeap[float, Entry] = LazyHeap(entries)
        self._becoming_unlikely: LazyHeap[float, Entry] = LazyHeap(entries)
        self._becoming_hopeless: LazyHeap[float, Entry] = LazyHeap(entries)
        self._late: dict[int, Entry] = {}
        self._soonest: LazyHeap[float, Entry] = LazyHeap(self._late)

    def add(self, entry: Entry, window: Window) -> None:
        """Watch an entry that waits."""
        if window.late_s < inf:
            self._becoming_late.push(window.late_s, entry.serial)
            self._becoming_unlikely.push(window.unlikely_s, entry.serial)
        if window.hopeless_s < inf:
            self._becoming_hopeless.push(window.hopeless_s, entry.serial)

    def remove(self, entry: Entry) -> None:
        """An entry waits no more."""
        self._late.pop(entry.serial, None)

    def late(self, now_s: float, waiting: int) -> Entry | None:
        """Of the late ones the one whose deadline is next.

        None where they are more than a quarter of those `waiting`, and more than one.
        """
        for entry in self._becoming_late.pop_through(now_s):
            deadline_s = entry.request.deadline_s
            assert deadline_s is not None
            self._late[entry.serial] = entry
            self._soonest.push(deadline_s, entry.serial)
        for entry in self._becoming_unlikely.pop_before(now_s):
            self._late.pop(entry.serial, None)
        if len(self._late) > max(MOST_LATE * waiting, 1):
            return None
        return self._soonest.least()

    def hopeless(self, now_s: float) -> list[Entry]:
        """Waiting entries that cannot be met any more; each is given once."""
        return self._becoming_hopeless.pop_before(now_s)
