"""When each request would have started under first come, first served, and how long that takes.

Any order that keeps the engine busy gets through work at about the same rate. So a request's turn
under first come, first served is when as much work has started as had arrived before it, whichever
requests that work belongs to.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

T = TypeVar("T")

FADE: Final = 0.999  # of the longest wait, with each turn: half of it is left after 693
KEEP: Final = 0.995  # of a request's weight in the mean, with each that comes later
MOST_RUNS: Final = 2.0  # times the mean run: what a long one gets for it at most
MOST_WAITS: Final = 4.0  # times the longest wait
LEAST_S: Final = 1e-3


class FcfsReference(Generic[T]):
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


class WaitScale:
    """T, the longest wait of late under first come, first served, and the mean time of running."""

    def __init__(self) -> None:
        self._longest_s = 0.0
        self._mean_s = 0.0
        self._weight = 0.0

    @property
    def seconds(self) -> float:
        """T."""
        return max(self._longest_s + self._mean_s, LEAST_S)

    def arrived(self, serving_s: float) -> float:
        """A request will run so long; the part of it that counts as waited already.

        What a slow answer takes in all is its wait and its run. That shall not bring the longest
        request of all to the front, though, nor matter where hardly anybody waits.
        """
        self._weight = KEEP * self._weight + 1
        self._mean_s += (serving_s - self._mean_s) / self._weight
        return min(serving_s, MOST_RUNS * self._mean_s, MOST_WAITS * self._longest_s)

    def turned(self, waited_s: float) -> None:
        """First come, first served would start a request now that has waited so long."""
        self._longest_s = max(waited_s, FADE * self._longest_s)
