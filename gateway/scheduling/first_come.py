"""When each request would have started under first come, first served.

Any order that keeps the engine busy gets through work at about the same rate. So a request's turn
under first come, first served is when as much work has started as had arrived before it, whichever
requests that work belongs to.
"""

from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class FirstCome(Generic[T]):
    """Requests in order of arrival, and how far first come, first served would have come.

    Work has any unit, as long as it is one; each call costs O(1) amortised.
    """

    def __init__(self) -> None:
        self._queue: deque[tuple[float, T]] = deque()
        self._arrived = 0.0
        self._started = 0.0

    def __len__(self) -> int:
        return len(self._queue)

    def arrive(self, entry: T, work: float) -> None:
        """A request of so much work waits."""
        if not self._queue and self._started >= self._arrived:
            self._arrived = self._started = 0.0  # sums stay exact
        self._queue.append((self._arrived, entry))
        self._arrived += work

    def start(self, work: float) -> None:
        """So much of the work that arrived was started, or went away."""
        self._started += work

    def due(self) -> Iterator[T]:
        """Requests whose turn has come since the last call, in order of arrival."""
        while self._queue and self._queue[0][0] <= self._started:
            yield self._queue.popleft()[1]
