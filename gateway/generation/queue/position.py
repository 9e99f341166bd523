"""Queue positions by order of arrival, and the queue's pace."""

from bisect import bisect_left
from collections import deque
from itertools import count
from typing import Final, NamedTuple

PACE_STARTS: Final = 64  # newest starts over which the queue's pace is averaged
TOKEN_TIME_DECAY: Final = 0.95  # per answer, of the exponential average of seconds per token


class QueuePosition(NamedTuple):
    """A request's position at its arrival; times are seconds from then, None if unknown.

    The estimates assume that the queue keeps its recent starts per second and seconds per token.
    """

    ahead: int
    expected_start_s: float | None
    expected_finish_s: float | None


class QueuePositions:
    """Counts the requests ahead of an arriving one, and those that overtook it when it starts."""

    def __init__(self) -> None:
        self._numbers = count()
        self._waiting: list[int] = []  # arrival numbers, ascending
        self._number_of: dict[str, int] = {}
        self._ahead: dict[str, tuple[int, int]] = {}  # requests ahead and departures at arrival
        self._departures = 0  # starts and withdrawals
        self._gaps_s: deque[float] = deque(maxlen=PACE_STARTS)  # between starts of a busy queue
        self._last_start_s: float | None = None
        self._seconds_per_token: float | None = None

    def arrive(self, request_id: str, median_tokens: float) -> QueuePosition:
        """Add a request to the queue."""
        number = self._number_of[request_id] = next(self._numbers)
        ahead = len(self._waiting)
        self._ahead[request_id] = ahead, self._departures
        self._waiting.append(number)
        start_s = self._start_s(ahead)
        return QueuePosition(ahead, start_s, self.finish_s(start_s, median_tokens))

    def expected_s(self, median_tokens: float) -> float | None:
        """The expected seconds to the end of a request that arrives now; None if unknown."""
        return self.finish_s(self._start_s(len(self._waiting)), median_tokens)

    def finish_s(self, start_s: float | None, median_tokens: float) -> float | None:
        """The expected end of a request with this expected start and median; None if unknown."""
        if start_s is None or self._seconds_per_token is None:
            return None
        return start_s + median_tokens * self._seconds_per_token

    def start(self, request_id: str, now_s: float) -> int:
        """Remove a request that starts; the number of later arrivals that left before it."""
        ahead, departures = self._ahead[request_id]
        departed = self._departures - departures
        passed_by = departed - (ahead - self._remove(request_id))
        if self._last_start_s is not None:
            self._gaps_s.append(now_s - self._last_start_s)
        self._last_start_s = now_s if self._waiting else None
        return max(passed_by, 0)

    def withdraw(self, request_id: str) -> None:
        """Remove a request that leaves without a start."""
        self._remove(request_id)

    def ended(self, seconds: float, tokens: int) -> None:
        """An answer of `tokens` tokens took `seconds` from its start."""
        if tokens:
            taken = seconds / tokens
            known = taken if self._seconds_per_token is None else self._seconds_per_token
            self._seconds_per_token = TOKEN_TIME_DECAY * known + (1 - TOKEN_TIME_DECAY) * taken

    def _remove(self, request_id: str) -> int:
        """Remove a request; the number of earlier arrivals that still wait."""
        number = self._number_of.pop(request_id)
        del self._ahead[request_id]
        index = bisect_left(self._waiting, number)
        del self._waiting[index]
        self._departures += 1
        return index

    def _start_s(self, ahead: int) -> float | None:
        if not ahead:
            return 0.0
        return ahead * sum(self._gaps_s) / len(self._gaps_s) if self._gaps_s else None
