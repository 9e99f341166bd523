"""Requests with a deadline: which are late, and which can no longer meet it (infeasible).

In overload, earliest deadline first starts each request when it is almost too late, so that few end
in time (Locke, Best-effort decision making for real-time scheduling, 1986). So late requests have
precedence only while they are few and will probably end in time. Once the deadlines of many are at
risk, most end in time if the shortest go first (`Deadlines.crowded`).
"""

from collections.abc import Callable, Mapping
from math import inf
from typing import Final

from msgspec import Struct

from gateway.scheduling.lazy_heap import LazyHeap
from gateway.scheduling.lmaas.cost_class import QueueEntry
from gateway.scheduling.requests import QueuedRequest

MAX_AT_RISK: Final = 0.1  # of the queued requests, late or unlikely; beyond it, cost decides


class StartLimits(Struct, frozen=True):
    """The latest times to start a request, on the scheduler's clock; inf where there is no limit.

    From `late_s` to `unlikely_s` it is late; after `infeasible_s` it is refused.
    """

    late_s: float
    unlikely_s: float
    infeasible_s: float


def start_limits(
    request: QueuedRequest, seconds: Callable[[float], float], *, trusted: bool = True
) -> StartLimits:
    """The limits of a request; generating n tokens takes `seconds(n)`.

    It is late once an answer of its 0.9 quantile would miss the deadline, unlikely to end in time
    once its median would, and infeasible once even a very short answer would. About one answer in a
    hundred is shorter than that: in logarithms, it is twice as far below the 0.1 quantile as the
    0.1 quantile is below the 0.25 quantile. By a provisional prediction, an answer may be a single
    token. Untrusted predictions make no request infeasible.
    """
    late_s = unlikely_s = infeasible_s = inf
    if request.deadline_s is not None:
        low, lower = request.quantiles[:2]
        late_s = request.deadline_s - seconds(request.p90)
        unlikely_s = request.deadline_s - seconds(request.median)
        shortest = low**3 / lower**2
        if request.provisional:
            shortest = min(shortest, 1.0)
        infeasible_s = request.deadline_s - (seconds(shortest) if trusted else 0.0)
    if request.start_by_s is not None:
        infeasible_s = min(infeasible_s, request.start_by_s)
    return StartLimits(late_s, unlikely_s, infeasible_s)


class Deadlines:
    """Queued entries ordered by when they become late, unlikely and infeasible."""

    def __init__(self, entries: Mapping[int, QueueEntry]) -> None:
        self._becoming_late: LazyHeap[float, QueueEntry] = LazyHeap(entries)
        self._becoming_unlikely: LazyHeap[float, QueueEntry] = LazyHeap(entries)
        self._becoming_infeasible: LazyHeap[float, QueueEntry] = LazyHeap(entries)
        self._late: dict[int, QueueEntry] = {}
        self._unlikely: set[int] = set()
        self._soonest: LazyHeap[float, QueueEntry] = LazyHeap(self._late)

    def add(self, entry: QueueEntry, limits: StartLimits) -> None:
        """Add a queued entry."""
        if limits.late_s < inf:
            self._becoming_late.push(limits.late_s, entry.serial)
            self._becoming_unlikely.push(limits.unlikely_s, entry.serial)
        if limits.infeasible_s < inf:
            self._becoming_infeasible.push(limits.infeasible_s, entry.serial)

    def remove(self, entry: QueueEntry) -> None:
        """Remove an entry that is no longer queued."""
        self._late.pop(entry.serial, None)
        self._unlikely.discard(entry.serial)

    def crowded(self, waiting: int) -> bool:
        """Whether late and unlikely entries are several, and more than a tenth of all `waiting`."""
        return len(self._late) + len(self._unlikely) > max(MAX_AT_RISK * waiting, 1)

    def late(self, now_s: float, waiting: int) -> QueueEntry | None:
        """The late entry with the earliest deadline; None also while deadlines are `crowded`."""
        for entry in self._becoming_late.pop_through(now_s):
            deadline_s = entry.request.deadline_s
            assert deadline_s is not None
            self._late[entry.serial] = entry
            self._soonest.push(deadline_s, entry.serial)
        for entry in self._becoming_unlikely.pop_before(now_s):
            self._late.pop(entry.serial, None)
            self._unlikely.add(entry.serial)
        return None if self.crowded(waiting) else self._soonest.peek()

    def infeasible(self, now_s: float) -> list[QueueEntry]:
        """Queued entries whose deadline can no longer be met; each is returned once."""
        return self._becoming_infeasible.pop_before(now_s)
