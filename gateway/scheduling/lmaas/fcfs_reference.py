"""A reference clock: when each request would have started under first come, first served (FCFS).

Any order that keeps the engine busy completes work at about the same rate. So a request's turn
under FCFS comes when as much work has started, of whichever requests, as had arrived before it.
"""

from collections import deque
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

T = TypeVar("T")

LONGEST_WAIT_DECAY: Final = 0.999  # per turn: a half-life of 693 turns
MEAN_DECAY: Final = 0.995  # of a request's weight in the mean, per later request
MAX_CREDIT_RUNS: Final = 2.0  # bound of the waiting credit, in mean serving times
MAX_CREDIT_WAITS: Final = 4.0  # bound of the waiting credit, in longest waits
MIN_RESPONSE_S: Final = 1e-3  # bound of T


class FcfsReference(Generic[T]):
    """Requests in order of arrival, and which of them FCFS would have started by now.

    Work may have any unit, the same everywhere. Each call costs O(1) amortised.
    """

    def __init__(self) -> None:
        self._queue: deque[tuple[float, T]] = deque()
        self._arrived = 0.0
        self._started = 0.0

    def __len__(self) -> int:
        return len(self._queue)

    def arrive(self, entry: T, work: float) -> None:
        """A request with this amount of work was queued."""
        if not self._queue and self._started >= self._arrived:
            self._arrived = self._started = 0.0  # sums stay exact
        self._queue.append((self._arrived, entry))
        self._arrived += work

    def start(self, work: float) -> None:
        """Work of this amount was started or withdrawn."""
        self._started += work

    def due(self) -> Iterator[T]:
        """Requests whose turn came since the last call, in order of arrival."""
        while self._queue and self._queue[0][0] <= self._started:
            yield self._queue.popleft()[1]


class WaitNormaliser:
    """T, the response time under FCFS at present: the longest recent wait plus the mean run."""

    def __init__(self) -> None:
        self._longest_s = 0.0
        self._mean_s = 0.0
        self._weight = 0.0

    @property
    def seconds(self) -> float:
        """T in seconds."""
        return max(self._longest_s + self._mean_s, MIN_RESPONSE_S)

    def arrived(self, serving_s: float) -> float:
        """Record the serving time of a new request; returns its waiting credit in seconds.

        The credit counts as time waited already, because a slow answer is slow by wait and serving
        time together. It is bounded, so that the longest request does not move to the front, and
        so that it has no effect while queues are short.
        """
        self._weight = MEAN_DECAY * self._weight + 1
        self._mean_s += (serving_s - self._mean_s) / self._weight
        return min(
            serving_s,
            MAX_CREDIT_RUNS * self._mean_s,
            MAX_CREDIT_WAITS * self._longest_s,
        )

    def turn_came(self, waited_s: float) -> None:
        """Record the wait of a request that FCFS would start now."""
        self._longest_s = max(waited_s, LONGEST_WAIT_DECAY * self._longest_s)
