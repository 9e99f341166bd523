"""The predicted work of the queued requests, and the bounds on it."""

import time
from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Final

from msgspec import Struct

from gateway.errors import QueueFull, TenantQueueFull
from gateway.generation.queue.appointments import Amount, Appointments, whole_seconds

DEFAULT_TENANT_TOKENS: Final = 262_144
DEFAULT_TENANT_CONTEXTS: Final = 16  # longest requests that a tenant may queue in any case
TENANTS: Final = 4  # full tenant queues that fit the node's queue by default
CAUTION: Final = 1.25  # by which a retry comes later than at the recent pace
FADE: Final = 0.98  # weight that the measured pace keeps at each step
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


class Load(Amount):
    """Queued requests, and the tokens of their prompts and predicted answers."""

    def leaves(self, requests: int, tokens: int, bound: "Load", kept: Amount) -> bool:
        """Whether these fit in addition, next to what is kept for others."""
        return (
            self.requests + kept.requests + requests <= bound.requests
            and self.tokens + kept.tokens + tokens <= bound.tokens
        )


NO_LOAD: Final = Load()


class QueueLoad:
    """Counts what is queued, and refuses what exceeds the bounds. Every call takes O(1)."""

    def __init__(self, bounds: QueueBounds, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.appointments = Appointments()
        self._configured = bounds
        self._bounds = bounds.resolved(0)
        self.total = Load()
        self._tenants: dict[str, Load] = defaultdict(Load)
        self._queued: dict[str, tuple[str, int]] = {}  # tenant and tokens, by request id
        self._seconds = self._computed = 0.0  # of recent steps

    def set_context(self, context_tokens: int) -> None:
        """The context of the engine, which some defaults follow from."""
        self._bounds = self._configured.resolved(context_tokens)

    def check(self, tenant: str, requests: int, tokens: int, name: Hashable | None = None) -> None:
        """TenantQueueFull or QueueFull if these further requests exceed a bound.

        Room that is kept for refused requests counts as taken, unless it is kept for these: `name`
        is what they have in common with their retries, by default the tenant.
        """
        bounds, queued = self._bounds, self._tenants.get(tenant, Load())
        name = tenant if name is None else name
        due = self.appointments.is_due(name, self._clock())
        own, every = self.appointments.of(tenant), self.appointments.total
        if requests > bounds.tenant_requests or tokens > bounds.tenant_tokens:
            raise TenantQueueFull(
                f"the request needs {requests} answers of {tokens} tokens in all; a tenant may "
                f"queue {bounds.tenant_requests} answers and {bounds.tenant_tokens} tokens",
                should_retry=False,
            )
        tenant_bound = Load(bounds.tenant_requests, bounds.tenant_tokens)
        if not queued.leaves(requests, tokens, tenant_bound, NO_LOAD if due else own):
            wait_s = self._appoint(name, tenant, requests, tokens, queued, tenant_bound)
            raise TenantQueueFull(
                f"{_described(queued)} of this tenant are queued; the limits are "
                f"{bounds.tenant_requests} answers and {bounds.tenant_tokens} tokens",
                retry_after_s=wait_s,
                should_retry=wait_s <= MAX_CLIENT_WAIT_S,
            )
        bound = Load(bounds.requests, bounds.tokens)
        if not self.total.leaves(requests, tokens, bound, NO_LOAD if due else every):
            wait_s = self._appoint(name, tenant, requests, tokens, self.total, bound)
            raise QueueFull(
                f"{_described(self.total)} are queued; the limits are {bounds.requests} answers "
                f"and {bounds.tokens} tokens",
                retry_after_s=wait_s,
                should_retry=wait_s <= MAX_CLIENT_WAIT_S,
            )

    def _appoint(
        self,
        name: Hashable,
        tenant: str,
        requests: int,
        tokens: int,
        queued: "Load",
        bound: "Load",
    ) -> float:
        """Seconds until there is room for these requests, which is kept if a client comes back.

        What is queued beyond the bound has to start before, with what earlier appointments and
        these requests take; the engine is taken to go on at its recent pace, shared by all tenants
        that wait. Not encoded yet, a request counts as the mean queued one. No more is kept than
        the bound.
        """
        tokens = max(tokens, requests * queued.tokens // max(queued.requests, 1))
        taken = self.appointments.total if queued is self.total else self.appointments.of(tenant)
        needed = Load(queued.requests + taken.requests, queued.tokens + taken.tokens)
        needed.add(requests, tokens)
        share = max(
            (needed.requests - bound.requests) / max(queued.requests, 1),
            (needed.tokens - bound.tokens) / max(queued.tokens, 1),
        )
        sharing = 1 if queued is self.total else len(self._tenants)
        wait_s = whole_seconds(share * CAUTION * sharing * self.wait_s(queued))
        if (
            wait_s <= MAX_CLIENT_WAIT_S
            and taken.requests + requests <= bound.requests
            and taken.tokens + tokens <= bound.tokens
        ):
            now_s = self._clock()
            wait_s = whole_seconds(
                self.appointments.make(
                    name, tenant, requests, tokens, now_s + wait_s, of_node=queued is self.total
                )
                - now_s
            )
        return wait_s

    def add(self, request_id: str, tenant: str, tokens: int) -> None:
        """A request was queued, of this many tokens."""
        self._queued[request_id] = tenant, tokens
        self._tenants[tenant].add(1, tokens)
        self.total.add(1, tokens)

    def revise(self, request_id: str, tokens: int) -> None:
        """A queued request is predicted to have this many tokens now."""
        tenant, before = self._queued[request_id]
        self._queued[request_id] = tenant, tokens
        self._tenants[tenant].add(0, tokens - before)
        self.total.add(0, tokens - before)

    def remove(self, request_id: str) -> None:
        """A request left the queue."""
        tenant, tokens = self._queued.pop(request_id)
        load = self._tenants[tenant]
        load.add(-1, -tokens)
        self.total.add(-1, -tokens)
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

    def wait_s(self, load: Load) -> float:
        """Seconds that the engine takes for this load at its recent pace, at least 1."""
        return max(load.tokens * self._seconds / self._computed, 1.0) if self._computed else 1.0

    def check_counts(self) -> None:
        """AssertionError if a count disagrees with the queued requests; for tests."""
        assert self.total.requests == len(self._queued)
        assert self.total.tokens == sum(tokens for _, tokens in self._queued.values())
        assert self.total.requests == sum(load.requests for load in self._tenants.values())
        assert self.total.tokens == sum(load.tokens for load in self._tenants.values())


def _described(load: Load) -> str:
    return f"{load.requests} answers of {load.tokens} tokens in all, prompts included,"
