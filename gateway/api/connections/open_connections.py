"""How many connections are open, and which of them make room for another."""

from collections.abc import Callable
from enum import Enum, auto
from typing import Final, Protocol

HEALTH_KEPT: Final = 8  # connections of monitors that make no room for others


class Closable(Protocol):
    """A connection as it is counted."""

    def close_idle(self) -> None:
        """Close the connection, which has no request."""


class Entry(Enum):
    """What a new connection may do."""

    ADMITTED = auto()
    OVER_LIMIT = auto()  # its first request is answered with an error, health routes excepted
    REJECTED = auto()  # closed without an answer


class OpenConnections:
    """The open connections of a server: `limit` admitted, and as many over the limit.

    Those over the limit are short-lived: they get one answer, an error. `evicted` is called for
    each connection that made room for another.
    """

    def __init__(self, limit: int, evicted: Callable[[], None] = lambda: None) -> None:
        self._limit = limit
        self._evicted = evicted
        self._admitted: set[Closable] = set()
        self._over_limit: set[Closable] = set()
        self._idle: dict[Closable, None] = {}  # kept alive without a request, oldest first
        self._monitors: dict[Closable, None] = {}  # the same, after a request of the health routes

    def __len__(self) -> int:
        return len(self._admitted) + len(self._over_limit)

    def enter(self, connection: Closable) -> Entry:
        """Count a new connection. At the limit, the longest idle one is closed for it."""
        if len(self._admitted) >= self._limit and self._idle:
            oldest = next(iter(self._idle))
            self.leave(oldest)
            oldest.close_idle()
            self._evicted()
        if len(self._admitted) < self._limit:
            self._admitted.add(connection)
            return Entry.ADMITTED
        if len(self._over_limit) < self._limit:
            self._over_limit.add(connection)
            return Entry.OVER_LIMIT
        return Entry.REJECTED

    def leave(self, connection: Closable) -> None:
        """Stop counting a connection; one that is not counted changes nothing."""
        self._admitted.discard(connection)
        self._over_limit.discard(connection)
        self.mark_busy(connection)

    def mark_idle(self, connection: Closable, *, monitor: bool = False) -> None:
        """The connection waits for its next request.

        A `monitor` is not closed to make room: in a flood, health is asked for by few.
        """
        if connection not in self._admitted:
            return
        if monitor:
            self._monitors[connection] = None
            if len(self._monitors) <= min(HEALTH_KEPT, self._limit // 2):
                return
            connection = next(iter(self._monitors))
            del self._monitors[connection]
        self._idle[connection] = None

    def mark_busy(self, connection: Closable) -> None:
        """The connection received something."""
        self._idle.pop(connection, None)
        self._monitors.pop(connection, None)
