"""Shares of the engine between tenants: virtual token counters (VTC, OSDI 2024, arXiv 2401.00588).

Each tenant's counter grows by the tokens it is served, divided by its share; the lowest goes next.
What a request will generate is charged when it starts, as predicted, and settled when it ends.
"""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Final

GENERATED: Final = 2.0  # a generated token counts as two of the prompt (VTC, section 5)


def service(prompt_tokens: float, generation_tokens: float) -> float:
    """What a request is charged for, in prompt tokens."""
    return prompt_tokens + GENERATED * generation_tokens


class Shares:
    """The counters of all tenants ever seen, and those that wait, lowest first.

    Who comes back after a pause is lifted to the lowest that waits, so that being away saves
    nothing up. Where nobody waits, the counters go on from where the last one left.
    """

    def __init__(self) -> None:
        self._counters: dict[str, float] = {}
        self._waiting: set[str] = set()
        self._heap: list[tuple[float, str]] = []
        self._last = ""

    def counter(self, tenant: str) -> float:
        """A tenant's counter; 0 for one never seen."""
        return self._counters.get(tenant, 0.0)

    def enter(self, tenant: str) -> None:
        """The tenant has a request waiting, its first."""
        lowest = self.lowest()
        floor = self.counter(self._last if lowest is None else lowest)
        self._counters[tenant] = max(self.counter(tenant), floor)
        self._waiting.add(tenant)
        self._push(tenant)

    def leave(self, tenant: str) -> None:
        """No request of the tenant waits any more."""
        self._last = tenant
        self._waiting.discard(tenant)

    def charge(self, tenant: str, tokens: float) -> None:
        """Add to a counter, or take from it where a charge was too high."""
        self._counters[tenant] = self.counter(tenant) + tokens
        if tenant in self._waiting:
            self._push(tenant)

    def _push(self, tenant: str) -> None:
        heappush(self._heap, (self._counters[tenant], tenant))
        if len(self._heap) > 4 * len(self._waiting) + 8:
            self._heap = [(self._counters[waiting], waiting) for waiting in self._waiting]
            heapify(self._heap)

    def lowest(self) -> str | None:
        """The tenant that waits with the lowest counter; None where nobody waits."""
        while self._heap:
            counter, tenant = self._heap[0]
            if tenant in self._waiting and counter == self._counters[tenant]:
                return tenant
            heappop(self._heap)
        return None

    def lowest_first(self) -> Iterator[str]:
        """Tenants that wait, lowest counter first. No change while it runs."""
        taken: list[tuple[float, str]] = []
        try:
            while (tenant := self.lowest()) is not None:
                taken.append(heappop(self._heap))
                self._drop_repeats(taken[-1])
                yield tenant
        finally:
            for entry in taken:
                heappush(self._heap, entry)

    def _drop_repeats(self, entry: tuple[float, str]) -> None:
        while self._heap and self._heap[0] == entry:
            heappop(self._heap)

    def check(self) -> None:
        """AssertionError where a waiting tenant is not to be found."""
        assert self._waiting <= {t for c, t in self._heap if c == self._counters[t]}
