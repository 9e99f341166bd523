"""Fair shares: virtual token counters (VTC, OSDI 2024, arXiv 2401.00588).

A counter grows by the tokens that its holder (a tenant, an app or a user) is served, divided by its
share; the holder with the lowest counter is next. A request is charged its predicted generation
when it starts; the charge is corrected to the true length when it ends.
"""

from itertools import count
from typing import Final

from gateway.scheduling.lazy_heap import LazyHeap

MAX_ABSENT: Final = 1024  # holders without queued requests whose counters are kept


class FairShare:
    """The counters of all holders; those with queued requests ordered by counter, then by time.

    When a holder returns after having had no requests, its counter is raised to the lowest of the
    queued holders, so that it gains nothing by its absence. If none is queued, it is raised to
    the counter of the last one that was. So a counter below that needs no keeping; of the others,
    the highest are kept.
    """

    def __init__(self) -> None:
        self._counters: dict[str, float] = {}
        self._serials = count()
        self._serial_of: dict[str, int] = {}  # of queued holders; new at each charge
        self._waiting: dict[int, str] = {}
        self._order: LazyHeap[float, str] = LazyHeap(self._waiting)
        self._last = ""

    def __len__(self) -> int:
        """Number of holders with queued requests."""
        return len(self._waiting)

    def counter(self, holder: str) -> float:
        """A holder's counter; 0 for an unknown one."""
        return self._counters.get(holder, 0.0)

    def lead(self, holder: str) -> float:
        """How far a queued holder's counter is above the lowest."""
        return self._counters[holder] - self._order.min_key()

    def enter(self, holder: str) -> None:
        """The holder's first request was queued."""
        lowest = self.lowest()
        floor = self.counter(self._last if lowest is None else lowest)
        self._counters[holder] = max(self.counter(holder), floor)
        self._requeue(holder)

    def leave(self, holder: str) -> None:
        """The holder has no queued requests any more."""
        self._last = holder
        serial = self._serial_of.pop(holder, None)
        if serial is not None:
            del self._waiting[serial]
        self._forget()

    def charge(self, holder: str, tokens: float) -> None:
        """Add to a counter; a negative amount corrects a charge that was too high."""
        self._counters[holder] = self.counter(holder) + tokens
        if holder in self._serial_of:
            self._requeue(holder)
        else:
            self._forget()

    def lowest(self) -> str | None:
        """The queued holder with the lowest counter; None if none is queued."""
        return self._order.peek()

    def lowest_first(self) -> list[str]:
        """The queued holders, lowest counter first."""
        return self._order.first(len(self._waiting))

    def _requeue(self, holder: str) -> None:
        self._waiting.pop(self._serial_of.get(holder, -1), None)
        serial = self._serial_of[holder] = next(self._serials)
        self._waiting[serial] = holder
        self._order.push(self._counters[holder], serial)

    def _forget(self) -> None:
        """Bound the counters of those without queued requests; O(log n) amortised."""
        if len(self._counters) <= len(self._waiting) + 2 * MAX_ABSENT:
            return
        absent = self._counters.keys() - self._serial_of.keys() - {self._last}
        for holder in sorted(absent, key=lambda h: (self._counters[h], h))[:-MAX_ABSENT]:
            del self._counters[holder]

    def check(self) -> None:
        """AssertionError if the order of queued holders contradicts their counters."""
        assert self._waiting == {serial: holder for holder, serial in self._serial_of.items()}
        assert len(self._counters) <= len(self._waiting) + 2 * MAX_ABSENT
        expected = sorted(self._serial_of, key=lambda h: (self._counters[h], self._serial_of[h]))
        assert self.lowest_first() == expected
