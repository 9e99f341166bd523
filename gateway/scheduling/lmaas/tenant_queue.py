"""What waits of one tenant, and what of it should go next."""

from collections.abc import Callable, Iterator
from math import inf
from typing import Final

from msgspec import Struct

from gateway.scheduling.dispatch import Reason
from gateway.scheduling.lazy_heap import LazyHeap
from gateway.scheduling.lmaas.cost_class import ClassKey, CostClass, Entry, class_of
from gateway.scheduling.lmaas.deadlines import Deadlines, Window
from gateway.scheduling.lmaas.fcfs_reference import FcfsReference, WaitScale
from gateway.scheduling.requests import QueuedRequest

TOGETHER: Final = 8  # requests that go in one dispatch at most


class Bounds(Struct, frozen=True):
    """How the order weighs waiting, and how unfair it may be.

    A request that has waited T, as long as first come, first served makes requests wait, goes
    before a fresh one that costs e^`waiting_weight` times less. It starts `max_delay_s`, divided
    by its urgency, after its turn under first come, first served at most (None: any time), and one
    admission wait.
    """

    max_delay_s: float | None = 60.0
    waiting_weight: float = 3.0


class Candidates(Struct, frozen=True):
    """Requests to start next, in this order, as many of them as fit, and why these."""

    entries: list[Entry]
    reason: Reason


class TenantQueue:
    """One tenant's waiting requests, in batches of similar length, highest rank first.

    Before the ranks go those put back for as long as the bound allows, oldest first, and then,
    while they are few, those whose deadline is near, earliest first.
    """

    def __init__(self, bounds: Bounds, names: Iterator[str]) -> None:
        self._bounds = bounds
        self._names = names
        self._entries: dict[int, Entry] = {}
        self._arrival: LazyHeap[float, Entry] = LazyHeap(self._entries)
        self._classes: dict[ClassKey, CostClass] = {}
        self._first_come = FcfsReference[Entry]()
        self._scale = WaitScale()
        self._put_back: LazyHeap[float, Entry] = LazyHeap(self._entries)  # by when they are overdue
        self._overdue: LazyHeap[float, Entry] = LazyHeap(self._entries)  # by arrival
        self._deadlines = Deadlines(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def a_second(self) -> float:
        """What a second of waiting counts for now, on the logarithm of a rank."""
        return self._bounds.waiting_weight / self._scale.seconds

    def add(self, entry: Entry, window: Window, now_s: float) -> None:
        """Let a request wait."""
        entry.since_s = entry.request.arrived_s - self._scale.arrived(entry.serving_s)
        self._entries[entry.serial] = entry
        self._arrival.push(entry.request.arrived_s, entry.serial)
        self._first_come.arrive(entry, entry.cost)
        self._deadlines.add(entry, window)
        key = class_of(entry)
        if key not in self._classes:
            self._classes[key] = CostClass(key, next(self._names))
        self._classes[key].add(entry)
        self._note_turns(now_s)

    def remove(self, entry: Entry, now_s: float) -> None:
        """A request started, or went away. KeyError if it does not wait here."""
        del self._entries[entry.serial]
        self._first_come.start(entry.cost)
        self._deadlines.remove(entry)
        key = class_of(entry)
        self._classes[key].remove(entry)
        if not self._classes[key].members:
            del self._classes[key]
        self._note_turns(now_s)

    def watch_anew(self, window_of: Callable[[QueuedRequest], Window]) -> None:
        """Take other times at which those that wait become late and hopeless."""
        self._deadlines = Deadlines(self._entries)
        for entry in self._entries.values():
            self._deadlines.add(entry, window_of(entry.request))

    def hopeless(self, now_s: float) -> list[Entry]:
        """Requests whose deadline cannot be met any more."""
        return self._deadlines.hopeless(now_s)

    def next(self, now_s: float, *, by_arrival: bool) -> Candidates:
        """What goes next; nothing else may pass it. IndexError where nothing waits."""
        overdue = self._most_overdue(now_s)
        if overdue is not None:
            return Candidates([overdue], "overdue")
        late = self._deadlines.late(now_s, len(self._entries))
        if late is not None:
            return Candidates([late], "late")
        if by_arrival:
            return Candidates(self.first(TOGETHER), "arrival")
        return Candidates(self._best(now_s), "rank")

    def first(self, count: int) -> list[Entry]:
        """The `count` requests that arrived first, in that order."""
        return self._arrival.first(count)

    def batches(self, now_s: float, *, by_arrival: bool) -> list[CostClass]:
        """The batches that wait, highest rank first, or by the arrival of their oldest."""
        if by_arrival:
            return sorted(self._classes.values(), key=lambda batch: batch.oldest_s)
        a_second = self.a_second
        return sorted(self._classes.values(), key=lambda b: b.rank(now_s, a_second), reverse=True)

    def _best(self, now_s: float) -> list[Entry]:
        """Of the batch of highest rank those that rank above the next batch."""
        a_second = self.a_second
        best, highest, second = None, -inf, -inf
        for batch in self._classes.values():
            rank = batch.rank(now_s, a_second)
            if rank > highest:
                best, highest, second = batch, rank, highest
            elif rank > second:
                second = rank
        return best.above(second, now_s, a_second, TOGETHER) if best else []

    def _note_turns(self, now_s: float) -> None:
        """Whose turn has come under first come, first served; from then on the bound counts."""
        most_s = self._bounds.max_delay_s
        for entry in self._first_come.due():
            self._scale.turned(now_s - entry.request.arrived_s)
            if most_s is not None and entry.serial in self._entries:
                due_s = now_s + most_s / entry.request.urgency
                self._put_back.push(due_s, entry.serial)

    def _most_overdue(self, now_s: float) -> Entry | None:
        for entry in self._put_back.pop_through(now_s):
            self._overdue.push(entry.request.arrived_s, entry.serial)
        return self._overdue.least()

    def check(self) -> None:
        """AssertionError where the views of the queue disagree."""
        members = {serial for batch in self._classes.values() for serial in batch.members}
        assert members == self._entries.keys()
        assert all(batch.members for batch in self._classes.values())
