"""The predicted work of the queued requests, and the bounds on it."""

from collections import defaultdict
from typing import Final

from msgspec import Struct

from gateway.errors import QueueFull, TenantQueueFull

DEFAULT_TENANT_TOKENS: Final = 262_144
DEFAULT_TENANT_CONTEXTS: Final = 16  # longest requests that a tenant may queue in any case
TENANTS: Final = 4  # full tenant queues that fit the node's queue by default
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


class Load(Struct):
    """Queued requests, and the tokens of their prompts and predicted answers."""

    requests: int = 0
    tokens: int = 0

    def add(self, requests: int, tokens: int) -> None:
        """Count requests; negative numbers remove them."""
        self.requests += requests
        self.tokens += tokens


class QueueLoad:
    """Counts what is queued, and refuses what exceeds the bounds. Every call takes O(1)."""

    def __init__(self, bounds: QueueBounds) -> None:
        self._configured = bounds
        self._bounds = bounds.resolved(0)
        self.total = Load()
        self._tenants: dict[str, Load] = defaultdict(Load)
        self._queued: dict[str, tuple[str, int]] = {}  # tenant and tokens, by request id
        self._seconds = self._computed = 0.0  # of recent steps

    def set_context(self, context_tokens: int) -> None:
        """The context of the engine, which some defaults follow from."""
        self._bounds = self._configured.resolved(context_tokens)

    def check(self, tenant: str, requests: int, tokens: int) -> None:
        """TenantQueueFull or QueueFull if these further requests exceed a bound."""
        bounds, queued = self._bounds, self._tenants.get(tenant, Load())
        if requests > bounds.tenant_requests or tokens > bounds.tenant_tokens:
            raise TenantQueueFull(
                f"the request needs {requests} answers of {tokens} tokens in all; a tenant may "
                f"queue {bounds.tenant_requests} answers and {bounds.tenant_tokens} tokens",
                should_retry=False,
            )
        if (
            queued.requests + requests > bounds.tenant_requests
            or queued.tokens + tokens > bounds.tenant_tokens
        ):
            raise TenantQueueFull(
                f"{_described(queued)} of this tenant are queued; the limits are "
                f"{bounds.tenant_requests} answers and {bounds.tenant_tokens} tokens",
                retry_after_s=self.wait_s(queued),
                should_retry=self.wait_s(queued) <= MAX_CLIENT_WAIT_S,
            )
        if (
            self.total.requests + requests > bounds.requests
            or self.total.tokens + tokens > bounds.tokens
        ):
            raise QueueFull(
                f"{_described(self.total)} are queued; the limits are {bounds.requests} answers "
                f"and {bounds.tokens} tokens",
                retry_after_s=self.wait_s(self.total),
                should_retry=self.wait_s(self.total) <= MAX_CLIENT_WAIT_S,
            )

    def add(self, request_id: str, tenant: str, tokens: int) -> None:
        """A request was queued, of this many tokens."""
        self._queued[request_id] = tenant, tokens
        self._tenants[tenant].add(1, tokens)
        self.total.add(1, tokens)

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
