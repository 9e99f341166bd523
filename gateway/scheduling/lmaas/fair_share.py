"""Shares of the engine between tenants: virtual token counters (VTC, OSDI 2024, arXiv 2401.00588).

Each tenant's counter grows by the tokens it is served, divided by its share; the lowest goes next.
What a request will generate is charged when it starts, as predicted, and settled when it ends.
"""

from itertools import count
from typing import Final

from gateway.scheduling.lazy_heap import LazyHeap

GENERATED: Final = 2.0  # a generated token counts as two of the prompt (VTC, section 5)


def service(prompt_tokens: float, generation_tokens: float) -> float:
    """What a request is charged for, in prompt tokens."""
    return prompt_tokens + GENERATED * generation_tokens


class FairShare:
    """The counters of all tenants ever seen, and those that wait, lowest first.

    Who comes back after a pause is lifted to the lowest that waits, so that being away saves
    nothing up. Where nobody waits, the counters go on from where the last one left.
    """

    def __init__(self) -> None:
        self._counters: dict[str, float] = {}
        self._serials = count()
        self._serial_of: dict[str, int] = {}  # of those that wait, one for each change
        self._waiting: dict[int, str] = {}
        self._order: LazyHeap[tuple[float, str], str] = LazyHeap(self._waiting)
        self._last = ""

    def counter(self, tenant: str) -> float:
        """A tenant's counter; 0 for one never seen."""
        return self._counters.get(tenant, 0.0)

    def enter(self, tenant: str) -> None:
        """The tenant has a request waiting, its first."""
        lowest = self.lowest()
        floor = self.counter(self._last if lowest is None else lowest)
        self._counters[tenant] = max(self.counter(tenant), floor)
        self._place(tenant)

    def leave(self, tenant: str) -> None:
        """No request of the tenant waits any more."""
        self._last = tenant
        serial = self._serial_of.pop(tenant, None)
        if serial is not None:
            del self._waiting[serial]

    def charge(self, tenant: str, tokens: float) -> None:
        """Add to a counter, or take from it where a charge was too high."""
        self._counters[tenant] = self.counter(tenant) + tokens
        if tenant in self._serial_of:
            self._place(tenant)

    def lowest(self) -> str | None:
        """The tenant that waits with the lowest counter; None where none waits."""
        return self._order.least()

    def lowest_first(self) -> list[str]:
        """Tenants that wait, lowest counter first."""
        return self._order.first(len(self._waiting))

    def _place(self, tenant: str) -> None:
        self._waiting.pop(self._serial_of.get(tenant, -1), None)
        serial = self._serial_of[tenant] = next(self._serials)
        self._waiting[serial] = tenant
        self._order.push((self._counters[tenant], tenant), serial)

    def check(self) -> None:
        """AssertionError where a waiting tenant is not to be found by its counter."""
        assert self._waiting == {serial: tenant for tenant, serial in self._serial_of.items()}
        assert self.lowest_first() == sorted(self._serial_of, key=lambda t: (self._counters[t], t))
