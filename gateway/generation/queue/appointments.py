"""Room in the queue that is kept for those that were refused, at the time at which they may retry.

A client that is refused gets a time (`Retry-After`). Without more, the first to come takes the
room that has become free by then, and most retries fail again under load. So the room is kept, in
order of refusal, from the refusal until a while after that time, for a request of the same tenant.
"""

from collections import defaultdict, deque
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
    tenant: str
    requests: int
    tokens: int
    due_s: float
    of_node: bool
    kept: bool = True


class Appointments:
    """The appointments that have neither been kept nor passed. Each call costs O(1) amortised.

    `total` sums those of requests that the node's bound refused, not their tenant's.
    """

    def __init__(self) -> None:
        self.total = Amount()
        self._of: defaultdict[str, Amount] = defaultdict(Amount)
        self._queue: deque[_Appointment] = deque()  # by due time
        self._by_tenant: defaultdict[str, deque[_Appointment]] = defaultdict(deque)

    def of(self, tenant: str) -> Amount:
        """What is kept for a tenant."""
        return self._of.get(tenant, Amount())

    def make(
        self, tenant: str, requests: int, tokens: int, due_s: float, *, of_node: bool
    ) -> float:
        """Keep room from now on; returns the time, not before that of an earlier appointment."""
        if self._queue:
            due_s = max(due_s, self._queue[-1].due_s)
        made = _Appointment(tenant, requests, tokens, due_s, of_node)
        self._queue.append(made)
        self._by_tenant[tenant].append(made)
        if of_node:
            self.total.add(requests, tokens)
        self._of[tenant].add(requests, tokens)
        return due_s

    def is_due(self, tenant: str, now_s: float) -> bool:
        """Whether a tenant has an appointment now."""
        self._forget(now_s)
        own = self._by_tenant.get(tenant)
        return bool(own) and own[0].due_s <= now_s + EARLY_S if own else False

    def keep(self, tenant: str) -> None:
        """A request of the tenant takes the room of its first appointment; ignored without one."""
        own = self._by_tenant.get(tenant)
        if own:
            self._drop(own[0])

    def _forget(self, now_s: float) -> None:
        """Drop what has passed."""
        while self._queue and self._queue[0].due_s + GRACE_S < now_s:
            passed = self._queue.popleft()
            if passed.kept:
                self._drop(passed)

    def _drop(self, dropped: _Appointment) -> None:
        dropped.kept = False
        own = self._by_tenant[dropped.tenant]
        own.popleft()
        if dropped.of_node:
            self.total.add(-dropped.requests, -dropped.tokens)
        self._of[dropped.tenant].add(-dropped.requests, -dropped.tokens)
        if not own:
            del self._by_tenant[dropped.tenant], self._of[dropped.tenant]


def whole_seconds(seconds: float) -> float:
    """Seconds as `Retry-After` has them: whole, at least 1."""
    return float(max(ceil(seconds), 1))
