"""Room in the queue that is kept for those that were refused, at the time at which they may retry.

A client that is refused gets a time (`Retry-After`). Without more, the first to come takes the
room that has become free by then, and most retries fail again under load. So a newcomer is refused
as well if, with it, the queue would be too long at a time that was given to others.

The queue is taken to shrink at a steady pace until then (a fluid approximation).
"""

from collections import defaultdict, deque
from collections.abc import Hashable, Iterator
from math import ceil
from typing import Final, NamedTuple

from msgspec import Struct

GRACE_S: Final = 5.0  # after the time, for the way to the client and back
EARLY_S: Final = 0.5  # before it, for clients that round down
MOST: Final = 10_000  # appointments


class Amount(Struct):
    """Answers, and their tokens with the prompts'."""

    requests: int = 0
    tokens: int = 0

    def add(self, requests: int, tokens: int) -> None:
        """Add to both; negative numbers take away."""
        self.requests += requests
        self.tokens += tokens


class Level(NamedTuple):
    """How much is queued at a time to come; or, of a pace, how much starts a second."""

    requests: float
    tokens: float

    def within(self, bound: Amount) -> bool:
        """Whether both are within the bound."""
        return self.requests <= bound.requests and self.tokens <= bound.tokens


class _Appointment(Struct, eq=False):
    name: Hashable
    tenant: str
    requests: int
    tokens: int
    due_s: float
    of_node: bool
    kept: bool = True


class Schedule:
    """What comes back at which time, by whole seconds; times never decrease."""

    def __init__(self) -> None:
        self._at: dict[int, Amount] = {}

    def __len__(self) -> int:
        """The number of seconds at which anything comes back."""
        return len(self._at)

    def add(self, due_s: float, requests: int, tokens: int) -> None:
        """These come back at a time, or, with negative numbers, do not."""
        second = ceil(due_s)
        amount = self._at.setdefault(second, Amount())
        amount.add(requests, tokens)
        if not amount.requests:
            del self._at[second]

    def levels(self, queued: Level, pace: Level, now_s: float) -> Iterator[tuple[float, Level]]:
        """The queue now, and at each time at which some come back, with them."""
        requests, tokens = queued
        yield now_s, queued
        for second, amount in self._at.items():
            passed_s = max(second - now_s, 0.0)
            now_s = max(now_s, second)
            requests = max(requests - passed_s * pace.requests, 0.0) + amount.requests
            tokens = max(tokens - passed_s * pace.tokens, 0.0) + amount.tokens
            yield now_s, Level(requests, tokens)


class Appointments:
    """The appointments that have neither been kept nor passed.

    A `name` is what a request and its retries have in common. `node` has those of requests that
    the node's bound refused, not their tenant's.
    """

    def __init__(self) -> None:
        self.node = Schedule()
        self._of: defaultdict[str, Schedule] = defaultdict(Schedule)
        self._queue: deque[_Appointment] = deque()  # by due time
        self._by_name: dict[Hashable, _Appointment] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._by_name)

    def of(self, tenant: str) -> Schedule:
        """Those of a tenant."""
        return self._of.get(tenant, Schedule())

    def make(
        self,
        name: Hashable,
        tenant: str,
        requests: int,
        tokens: int,
        due_s: float,
        *,
        of_node: bool,
    ) -> float:
        """Keep room from now on; returns the time, not before that of an earlier appointment.

        A name that has one already keeps that. If there are too many, none is made.
        """
        if name in self._by_name:
            return self._by_name[name].due_s
        if len(self._by_name) >= MOST:
            return due_s
        if self._queue:
            due_s = max(due_s, self._queue[-1].due_s)
        made = _Appointment(name, tenant, requests, tokens, due_s, of_node)
        self._queue.append(made)
        self._by_name[name] = made
        self._count(made, 1)
        return due_s

    def is_due(self, name: Hashable, now_s: float) -> bool:
        """Whether this name has an appointment now."""
        self._forget(now_s)
        found = self._by_name.get(name)
        return found is not None and found.due_s <= now_s + EARLY_S

    def keep(self, name: Hashable) -> None:
        """The request takes the room that was kept; ignored without an appointment."""
        found = self._by_name.get(name)
        if found is not None:
            self._drop(found)

    def _forget(self, now_s: float) -> None:
        """Drop what has passed."""
        while self._queue and self._queue[0].due_s + GRACE_S < now_s:
            passed = self._queue.popleft()
            if passed.kept:
                self._drop(passed)

    def _drop(self, dropped: _Appointment) -> None:
        dropped.kept = False
        del self._by_name[dropped.name]
        self._count(dropped, -1)

    def _count(self, each: _Appointment, sign: int) -> None:
        own = self._of[each.tenant]
        for schedule in (self.node, own) if each.of_node else (own,):
            schedule.add(each.due_s, sign * each.requests, sign * each.tokens)
        if not len(own):
            del self._of[each.tenant]


def whole_seconds(seconds: float) -> float:
    """Seconds as `Retry-After` has them: whole, at least 1."""
    return float(max(ceil(seconds), 1))
