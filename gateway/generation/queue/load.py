"""The predicted work of the queued requests, and the bounds on it."""

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from math import ceil
from typing import Final, NamedTuple

from msgspec import Struct

from gateway.errors import QueueFull, TenantQueueFull
from gateway.generation.queue.appointments import (
    Amount,
    Appointments,
    Level,
    Schedule,
    whole_seconds,
)

DEFAULT_TENANT_TOKENS: Final = 262_144
DEFAULT_TENANT_CONTEXTS: Final = 16  # longest requests that a tenant may queue in any case
TENANTS: Final = 4  # full tenant queues that fit the node's queue by default
CAUTION: Final = 1.25  # by which a retry comes later than at the recent pace
FADE: Final = 0.98  # weight that a running mean keeps at each step or request
HONOURED: Final = 1.25  # of a bound, up to which those are let in that come at their time
MAX_CLIENT_WAIT_S: Final = 60.0  # official clients ignore a longer Retry-After and retry at once


class QueueBounds(Struct, frozen=True, kw_only=True):
    """The most that may be queued, by tenant and in total; 0 tokens: by the model's context."""

    tokens: int = 0
    tenant_tokens: int = 0
    requests: int = 4096
    tenant_requests: int = 1024

    def resolved(self, context_tokens: int) -> "QueueBounds":
        """The bounds with every default replaced by its value."""
        least = max(DEFAULT_TENANT_TOKENS, DEFAULT_TENANT_CONTEXTS * context_tokens)
        return QueueBounds(
            tokens=self.tokens or TENANTS * least,
            tenant_tokens=self.tenant_tokens or least,
            requests=self.requests,
            tenant_requests=self.tenant_requests,
        )


class QueueLoad:
    """Counts what is queued, and refuses what exceeds the bounds.

    Every call takes O(1), and `check` also a pass over the seconds at which refused requests come
    back, at most a minute of them.
    """

    def __init__(self, bounds: QueueBounds, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.appointments = Appointments()
        self._configured = bounds
        self._bounds = bounds.resolved(0)
        self.total = Amount()
        self._tenants: dict[str, Amount] = defaultdict(Amount)
        self._mean_tokens = 0.0  # of a request, of those queued lately
        self._queued: dict[str, tuple[str, int]] = {}  # tenant and tokens, by request id
        self._seconds = self._computed = 0.0  # of recent steps

    def set_context(self, context_tokens: int) -> None:
        """The context of the engine, which some defaults follow from."""
        self._bounds = self._configured.resolved(context_tokens)

    def check(self, tenant: str, requests: int, tokens: int, name: Hashable | None = None) -> None:
        """TenantQueueFull or QueueFull if these further requests exceed a bound.

        They are refused, too, if with them others could not come back at the times that they were
        given. `name` is what these have in common with their retries, by default the tenant: those
        that come back at their time are let in up to `HONOURED` of a bound.
        """
        bounds = self._bounds
        name = tenant if name is None else name
        now_s = self._clock()
        due = self.appointments.is_due(name, now_s)
        if requests > bounds.tenant_requests or tokens > bounds.tenant_tokens:
            raise TenantQueueFull(
                f"the request needs {requests} answers of {tokens} tokens in all; a tenant may "
                f"queue {bounds.tenant_requests} answers and {bounds.tenant_tokens} tokens",
                should_retry=False,
            )
        asked = Amount(requests, tokens)
        own = _Bounded(
            self._tenants.get(tenant, Amount()),
            Amount(bounds.tenant_requests, bounds.tenant_tokens),
            self.appointments.of(tenant),
            self._starts_per_s(len(self._tenants.keys() | {tenant})),
        )
        if not own.holds(asked, now_s, due=due):
            wait_s = self._appoint(name, tenant, asked, own, now_s, of_node=False)
            raise TenantQueueFull(
                f"{_described(own.queued)} of this tenant are queued; the limits are "
                f"{bounds.tenant_requests} answers and {bounds.tenant_tokens} tokens"
                f"{own.kept(asked)}",
                retry_after_s=wait_s,
                should_retry=wait_s <= MAX_CLIENT_WAIT_S,
            )
        node = _Bounded(
            self.total,
            Amount(bounds.requests, bounds.tokens),
            self.appointments.node,
            self._starts_per_s(1),
        )
        if not node.holds(asked, now_s, due=due):
            wait_s = self._appoint(name, tenant, asked, node, now_s, of_node=True)
            raise QueueFull(
                f"{_described(self.total)} are queued; the limits are {bounds.requests} answers "
                f"and {bounds.tokens} tokens{node.kept(asked)}",
                retry_after_s=wait_s,
                should_retry=wait_s <= MAX_CLIENT_WAIT_S,
            )

    def _appoint(
        self,
        name: Hashable,
        tenant: str,
        asked: Amount,
        bounded: "_Bounded",
        now_s: float,
        *,
        of_node: bool,
    ) -> float:
        """Seconds until there is room for these requests, which is kept if a client comes back.

        Not encoded yet, a request counts as the mean queued one.
        """
        queued = bounded.queued
        mean = queued.tokens // max(queued.requests, 1)
        asked = Amount(asked.requests, max(asked.tokens, asked.requests * mean))
        wait_s = whole_seconds(bounded.room_at(asked, now_s) - now_s)
        if wait_s > MAX_CLIENT_WAIT_S:
            return wait_s
        due_s = self.appointments.make(
            name, tenant, asked.requests, asked.tokens, now_s + wait_s, of_node=of_node
        )
        return whole_seconds(due_s - now_s)

    def _starts_per_s(self, tenants: int) -> Level:
        """What leaves a queue at the engine's recent pace, which this number of tenants shares."""
        tokens = (self.pace or 0.0) / max(tenants, 1)
        return Level(tokens / self._mean_tokens if self._mean_tokens else 0.0, tokens)

    def add(self, request_id: str, tenant: str, tokens: int) -> None:
        """A request was queued, of this many tokens."""
        self._queued[request_id] = tenant, tokens
        self._count(tenant, 1, tokens)
        known = self._mean_tokens or float(tokens)
        self._mean_tokens = FADE * known + (1 - FADE) * tokens

    def revise(self, request_id: str, tokens: int) -> None:
        """A queued request is predicted to have this many tokens now."""
        tenant, before = self._queued[request_id]
        self._queued[request_id] = tenant, tokens
        self._count(tenant, 0, tokens - before)

    def remove(self, request_id: str) -> None:
        """A request left the queue."""
        tenant, tokens = self._queued.pop(request_id)
        self._count(tenant, -1, -tokens)

    @contextmanager
    def kept(self, tenant: str, requests: int, tokens: int) -> Iterator[None]:
        """Count these requests as queued meanwhile: they were let in, and are queued next."""
        self._count(tenant, requests, tokens)
        try:
            yield
        finally:
            self._count(tenant, -requests, -tokens)

    def _count(self, tenant: str, requests: int, tokens: int) -> None:
        """Add to the tenant's and to all; negative numbers take away."""
        load = self._tenants[tenant]
        load.add(requests, tokens)
        self.total.add(requests, tokens)
        if not load.requests:
            del self._tenants[tenant]

    def stepped(self, computed: int, took_s: float) -> None:
        """The engine computed this many tokens in one step."""
        if computed:
            self._seconds = FADE * self._seconds + took_s
            self._computed = FADE * self._computed + computed

    @property
    def pace(self) -> float | None:
        """Tokens that the engine computed a second in recent steps; None before any."""
        return self._computed / self._seconds if self._seconds else None

    def check_counts(self) -> None:
        """AssertionError if a count disagrees with the queued requests; for tests."""
        assert self.total.requests == len(self._queued)
        assert self.total.tokens == sum(tokens for _, tokens in self._queued.values())
        assert self.total.requests == sum(load.requests for load in self._tenants.values())
        assert self.total.tokens == sum(load.tokens for load in self._tenants.values())


class _Bounded(NamedTuple):
    """A queue with its bound, what comes back to it, and the pace at which it shrinks."""

    queued: Amount
    bound: Amount
    returning: Schedule
    pace: Level

    def holds(self, asked: Amount, now_s: float, *, due: bool) -> bool:
        """Whether these fit in addition; before their time, next to all that come back."""
        after = self._with(asked)
        if due:
            requests, tokens = self.bound.requests, self.bound.tokens
            return after.within(Amount(ceil(HONOURED * requests), ceil(HONOURED * tokens)))
        levels = self.returning.levels(after, self.pace, now_s)
        return all(level.within(self.bound) for _, level in levels)

    def kept(self, asked: Amount) -> str:
        """The rest of a message: what room is kept, if these would fit without."""
        if not self._with(asked).within(self.bound):
            return ""
        return ", and the room is kept for others, which come back at a time that they were given"

    def room_at(self, asked: Amount, now_s: float) -> float:
        """When these fit after all that come back. Now, if the pace is not known."""
        *_, (at_s, level) = self.returning.levels(self._with(Amount()), self.pace, now_s)
        beyond = max(
            0.0 if not pace else (queued + own - most) / pace
            for queued, own, most, pace in (
                (level.requests, asked.requests, self.bound.requests, self.pace.requests),
                (level.tokens, asked.tokens, self.bound.tokens, self.pace.tokens),
            )
        )
        return at_s + CAUTION * max(beyond, 0.0)

    def _with(self, asked: Amount) -> Level:
        return Level(self.queued.requests + asked.requests, self.queued.tokens + asked.tokens)


def _described(load: Amount) -> str:
    return f"{load.requests} answers of {load.tokens} tokens in all, prompts included,"
