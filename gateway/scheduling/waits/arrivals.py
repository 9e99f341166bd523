"""Recent arrivals, from which a forecast takes those to come: later ones may overtake."""

from collections import deque
from typing import Final, NamedTuple

from gateway.scheduling.requests import QueuedRequest

SAMPLE: Final = 128  # newest arrivals that later ones resemble
BIN_S: Final = 2.0  # in which arrivals are counted
BINS: Final = 15
LEFT_OUT: Final = 2  # bins with the most arrivals: a burst says nothing of the time after it


class Arrival(NamedTuple):
    """A request as it arrived, with its rank then."""

    request: QueuedRequest
    rank: float


class RecentArrivals:
    """The newest arrivals, and their rate over half a minute: a trimmed mean."""

    def __init__(self) -> None:
        self.sample: deque[Arrival] = deque(maxlen=SAMPLE)
        self._first: int | None = None
        self._counts: deque[list[int]] = deque(maxlen=BINS)  # bin and arrivals

    def add(self, request: QueuedRequest, rank: float, now_s: float) -> None:
        """A request arrived."""
        current = int(now_s // BIN_S)
        if self._first is None:
            self._first = current
        if self._counts and self._counts[-1][0] == current:
            self._counts[-1][1] += 1
        else:
            self._counts.append([current, 1])
        self.sample.append(Arrival(request, rank))

    def rate(self, now_s: float) -> float:
        """Arrivals a second."""
        if self._first is None:
            return 0.0
        current = int(now_s // BIN_S)
        counts = sorted(count for number, count in self._counts if number > current - BINS)
        seen = min(current - self._first + 1, BINS) - LEFT_OUT
        return sum(counts[:-LEFT_OUT]) / (max(seen, 1) * BIN_S)
