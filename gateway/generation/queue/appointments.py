"""Room in the queue that is kept for those that were refused, at the time at which they may retry.

A client that is refused gets a time (`Retry-After`). Without more, the first to come takes the
room that has become free by then, and most retries fail again under load. So the room is kept, in
order of refusal, from the refusal until a while after that time, for the same request.
"""

from collections import defaultdict, deque
from collections.abc import Hashable
from math import ceil
from typing import Final

from msgspec import Struct

GRACE_S: Final = 5.0  # after the time, for the way to the client and back
EARLY_S: Final = 0.5  # before it, for clients that round down


class Amount(Struct):
    """Answers, and their tokens with the prompts'."""

    requests: int = 0
    tokens: int = 0

    def add(self, requests: int, tokens: int) -> None:
        """Add to both; negative numbers take away."""
        self.requests += requests
        self.tokens += tokens


class _Appointment(Struct, eq=False):
    name: Hashable
    tenant: str
    requests: int
    tokens: int
    due_s: float
    of_node: bool
    kept: bool = True


class Appointments:
    """The appointments that have neither been kept nor passed. Each call costs O(1) amortised.

    A `name` is what a request and its retries have in common. `total` sums those of requests that
    the node's bound refused, not their tenant's.
    """

    def __init__(self) -> None:
        self.total = Amount()
        self._of: defaultdict[str, Amount] = defaultdict(Amount)
        self._queue: deque[_Appointment] = deque()  # by due time
        self._by_name: dict[Hashable, _Appointment] = {}

    def of(self, tenant: str) -> Amount:
        """What is kept for a tenant."""
        return self._of.get(tenant, Amount())

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

        A name that has one already keeps that.
        """
        if name in self._by_name:
            return self._by_name[name].due_s
        if self._queue:
            due_s = max(due_s, self._queue[-1].due_s)
        made = _Appointment(name, tenant, requests, tokens, due_s, of_node)
        self._queue.append(made)
        self._by_name[name] = made
        if of_node:
            self.total.add(requests, tokens)
        self._of[tenant].add(requests, tokens)
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
        if dropped.of_node:
            self.total.add(-dropped.requests, -dropped.tokens)
        own = self._of[dropped.tenant]
        own.add(-dropped.requests, -dropped.tokens)
        if not own.requests:
            del self._of[dropped.tenant]


def whole_seconds(seconds: float) -> float:
    """Seconds as `Retry-After` has them: whole, at least 1."""
    return float(max(ceil(seconds), 1))
