"""Fair shares inside a tenant: between its apps, and inside an app between its users.

The same virtual token counters as between tenants, but with room for the order of the whole: its
next request goes ahead unless its app or user leads another that waits by more than a bound.
Exactly equal service would make every request wait for its user's turn, and the order by waiting
time and cost would have no effect between users. (Bounding the lead to keep another order is the
idea of deficit-based scheduling, arXiv 2501.14312.)
"""

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

from gateway.scheduling.lazy_heap import LazyHeap
from gateway.scheduling.lmaas.cost_class import QueueEntry
from gateway.scheduling.lmaas.fair_share import FairShare
from gateway.scheduling.requests import QueuedRequest

ShareLevel: TypeAlias = Literal["tenant", "app", "user"]
"""The smallest that have shares: tenants alone, the apps of a tenant too, or also their users."""

Level: TypeAlias = Literal["app", "user"]
INNER_LEVELS: Final[dict[ShareLevel, tuple[Level, ...]]] = {
    "tenant": (),
    "app": ("app",),
    "user": ("app", "user"),
}


class Part:
    """The queued requests of one app or user, by arrival; `parts` are an app's users."""

    def __init__(self, levels: Sequence[Level]) -> None:
        self.entries: dict[int, QueueEntry] = {}
        self.parts = Parts(levels) if levels else None
        self._arrival: LazyHeap[float, QueueEntry] = LazyHeap(self.entries)

    def add(self, entry: QueueEntry) -> None:
        """Queue a request."""
        self.entries[entry.serial] = entry
        self._arrival.push(entry.request.arrived_s, entry.serial)
        if self.parts is not None:
            self.parts.add(entry)

    def remove(self, entry: QueueEntry) -> None:
        """A request started or was withdrawn. KeyError if it is not queued here."""
        del self.entries[entry.serial]
        if self.parts is not None:
            self.parts.remove(entry)

    def oldest(self) -> QueueEntry:
        """The request that arrived first. IndexError if none is queued."""
        return self._arrival.first(1)[0]


class Parts:
    """The apps of a tenant, or the users of an app, and the service that each has had.

    `levels` names what these parts are, then what theirs are. A lead is in prompt tokens over the
    part's share.
    """

    def __init__(self, levels: Sequence[Level]) -> None:
        self.shares = FairShare()
        self._level, *self._levels_below = levels
        self._parts: dict[str, Part] = {}

    def add(self, entry: QueueEntry) -> None:
        """Queue a request in its parts."""
        name = self._name_of(entry.request)
        part = self._parts.get(name)
        if part is None:
            part = self._parts[name] = Part(self._levels_below)
        if not part.entries:
            self.shares.enter(name)
        part.add(entry)

    def remove(self, entry: QueueEntry) -> None:
        """A request started or was withdrawn. KeyError if it is not queued here."""
        name = self._name_of(entry.request)
        part = self._parts[name]
        part.remove(entry)
        if not part.entries:
            self.shares.leave(name)
            if part.parts is None:  # else the counters of its parts are still of use
                del self._parts[name]

    def charge(self, request: QueuedRequest, tokens: float) -> None:
        """Add to the counters of a request's parts, queued or not."""
        name = self._name_of(request)
        share = request.app_share if self._level == "app" else 1.0
        self.shares.charge(name, tokens / share)
        part = self._parts.get(name)
        if part is not None and part.parts is not None:
            part.parts.charge(request, tokens)

    def least_served(self) -> QueueEntry:
        """The oldest request of the part with the lowest counter, in it of its part. O(log n).

        IndexError if nothing is queued.
        """
        part = self._parts[str(self.shares.lowest())]
        return part.oldest() if part.parts is None else part.parts.least_served()

    def holding_back(self, request: QueuedRequest, max_lead: float) -> Level | None:
        """The level at which a queued request waits for its share; None if it does not."""
        if self._leads(request, max_lead):
            return self._level
        parts = self._parts[self._name_of(request)].parts
        return None if parts is None else parts.holding_back(request, max_lead)

    def _leads(self, request: QueuedRequest, max_lead: float) -> bool:
        return len(self.shares) > 1 and self.shares.lead(self._name_of(request)) > max_lead

    def _name_of(self, request: QueuedRequest) -> str:
        return request.app if self._level == "app" else request.user

    def check(self) -> None:
        """AssertionError if shares and queued requests disagree."""
        self.shares.check()
        queued = {name for name, part in self._parts.items() if part.entries}
        assert queued == set(self.shares.lowest_first())
        for part in self._parts.values():
            assert part.entries or part.parts is not None
            if part.parts is not None:
                part.parts.check()
