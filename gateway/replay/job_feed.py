"""Feeds the lines of batch jobs to the queue in order, as many at a time as the live runner."""

from collections import deque

from gateway.jobs.line_bound import LineBound, worth_claiming
from gateway.scheduling.requests import QueuedRequest, SharedPrefix


class JobFeed:
    """The lines of jobs that have arrived: about twice what the KV memory holds are queued."""

    def __init__(self, pool_tokens: int) -> None:
        self._pool_tokens = pool_tokens
        self._bound = LineBound()
        self._waiting: deque[QueuedRequest] = deque()
        self._held: dict[str, float] = {}  # tokens of its own that a line needs
        self._tokens = 0.0
        self._members: dict[str, int] = {}  # held lines by prefix
        self._prefix_tokens = 0

    def __len__(self) -> int:
        """Lines that are not queued yet."""
        return len(self._waiting)

    def add(self, request: QueuedRequest) -> None:
        """A line arrives."""
        self._waiting.append(request)

    def claim(self) -> list[QueuedRequest]:
        """The next lines to queue; none while enough are queued or run."""
        needed = self._tokens + self._prefix_tokens
        room = self._bound.room(self._pool_tokens, needed, 0, len(self._held))
        if not self._waiting or not worth_claiming(room, 0, len(self._held)):
            return []
        claimed = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        for request in claimed:
            self._hold(request)
        return claimed

    def ended(self, request: QueuedRequest) -> None:
        """A line left the engine."""
        self._tokens -= self._held.pop(request.id)
        prefix = request.prefix
        if prefix is not None:
            self._members[prefix.id] -= 1
            if not self._members[prefix.id]:
                del self._members[prefix.id]
                self._prefix_tokens -= prefix.tokens

    def _hold(self, request: QueuedRequest) -> None:
        prefix: SharedPrefix | None = request.prefix
        shared = 0 if prefix is None else prefix.tokens
        tokens = request.prompt_tokens - shared + request.median
        self._bound.queued(tokens)
        self._held[request.id] = tokens
        self._tokens += tokens
        if prefix is not None:
            if prefix.id not in self._members:
                self._prefix_tokens += prefix.tokens
            self._members[prefix.id] = self._members.get(prefix.id, 0) + 1
