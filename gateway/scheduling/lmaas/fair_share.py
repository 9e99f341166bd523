"""Fair shares between tenants: virtual token counters (VTC, OSDI 2024, arXiv 2401.00588).

A tenant's counter grows by the tokens it is served, divided by its share; the tenant with the
lowest counter is next. A request is charged its predicted generation when it starts; the charge is
corrected to the true length when it ends.
"""

from itertools import count
from typing import Final

from gateway.scheduling.lazy_heap import LazyHeap

GENERATED_TOKEN_WEIGHT: Final = 2.0  # in prompt tokens (VTC, section 5)


def service(prompt_tokens: float, generation_tokens: float) -> float:
    """The service that a request is charged for, in prompt tokens."""
    return prompt_tokens + GENERATED_TOKEN_WEIGHT * generation_tokens


class FairShare:
    """The counters of all tenants ever seen; the queued tenants ordered by counter.

    When a tenant returns after having had no requests, its counter is raised to the lowest of the
    queued tenants, so that it gains nothing by its absence. If no tenant is queued, it is raised to
    the counter of the last one that was.
    """

    def __init__(self) -> None:
        self._counters: dict[str, float] = {}
        self._serials = count()
        self._serial_of: dict[str, int] = {}  # of queued tenants; new at each charge
        self._waiting: dict[int, str] = {}
        self._order: LazyHeap[tuple[float, str], str] = LazyHeap(self._waiting)
        self._last = ""

    def counter(self, tenant: str) -> float:
        """A tenant's counter; 0 for an unknown one."""
        return self._counters.get(tenant, 0.0)

    def enter(self, tenant: str) -> None:
        """The tenant's first request was queued."""
        lowest = self.lowest()
        floor = self.counter(self._last if lowest is None else lowest)
        self._counters[tenant] = max(self.counter(tenant), floor)
        self._requeue(tenant)

    def leave(self, tenant: str) -> None:
        """The tenant has no queued requests any more."""
        self._last = tenant
        serial = self._serial_of.pop(tenant, None)
        if serial is not None:
            del self._waiting[serial]

    def charge(self, tenant: str, tokens: float) -> None:
        """Add to a counter; a negative amount corrects a charge that was too high."""
        self._counters[tenant] = self.counter(tenant) + tokens
        if tenant in self._serial_of:
            self._requeue(tenant)

    def lowest(self) -> str | None:
        """The queued tenant with the lowest counter; None if none is queued."""
        return self._order.peek()

    def lowest_first(self) -> list[str]:
        """The queued tenants, lowest counter first."""
        return self._order.first(len(self._waiting))

    def _requeue(self, tenant: str) -> None:
        self._waiting.pop(self._serial_of.get(tenant, -1), None)
        serial = self._serial_of[tenant] = next(self._serials)
        self._waiting[serial] = tenant
        self._order.push((self._counters[tenant], tenant), serial)

    def check(self) -> None:
        """AssertionError if the order of queued tenants contradicts their counters."""
        assert self._waiting == {serial: tenant for tenant, serial in self._serial_of.items()}
        assert self.lowest_first() == sorted(self._serial_of, key=lambda t: (self._counters[t], t))
