"""Recent arrivals, from which a forecast takes those to come: later ones may overtake."""

from collections import deque
from math import exp
from typing import Final, NamedTuple

from gateway.scheduling.requests import QueuedRequest

SAMPLE: Final = 128  # newest arrivals that later ones resemble
RATE_S: Final = 30.0  # time constant of the rate
MIN_AGE_S: Final = 5.0  # a rate over less says little


class Arrival(NamedTuple):
    """A request as it arrived, with its rank then."""

    request: QueuedRequest
    rank: float


class RecentArrivals:
    """The newest arrivals, and their rate: an exponential average."""

    def __init__(self) -> None:
        self.sample: deque[Arrival] = deque(maxlen=SAMPLE)
        self._first_s: float | None = None
        self._last_s = 0.0
        self._weight = 0.0

    def add(self, request: QueuedRequest, rank: float, now_s: float) -> None:
        """A request arrived."""
        if self._first_s is None:
            self._first_s = self._last_s = now_s
        self._weight = self._weight * exp((self._last_s - now_s) / RATE_S) + 1
        self._last_s = now_s
        self.sample.append(Arrival(request, rank))

    def rate(self, now_s: float) -> float:
        """Arrivals a second."""
        if self._first_s is None:
            return 0.0
        seen = 1 - exp(-max(now_s - self._first_s, MIN_AGE_S) / RATE_S)
        return self._weight * exp((self._last_s - now_s) / RATE_S) / (RATE_S * seen)
