"""The order of arrival among waiting requests, and how fast the queue moves."""

from bisect import bisect_left
from collections import deque
from itertools import count
from typing import Final, NamedTuple

RECENT: Final = 64  # starts that the pace of the queue is measured over
TOKEN_FADE: Final = 0.95  # weight that the known pace of answers keeps at each new one


class QueuePosition(NamedTuple):
    """A request's place at its arrival; times in seconds from then, None where not known.

    Expectations take the queue to go on as it did lately: the same starts a second, the same
    seconds a token.
    """

    ahead: int
    expected_start_s: float | None
    expected_finish_s: float | None


class QueuePositions:
    """Counts how many requests wait when one arrives, and how many passed it when it starts."""

    def __init__(self) -> None:
        self._numbers = count()
        self._waiting: list[int] = []  # numbers, rising
        self._number: dict[str, int] = {}
        self._ahead: dict[str, tuple[int, int]] = {}  # those that waited, and departures, then
        self._departures = 0  # starts and withdrawals
        self._gaps: deque[float] = deque(maxlen=RECENT)  # between starts while others wait
        self._started_s: float | None = None
        self._token_s: float | None = None

    def arrive(self, request_id: str, median_tokens: float) -> QueuePosition:
        """A request waits from now on."""
        number = self._number[request_id] = next(self._numbers)
        ahead = len(self._waiting)
        self._ahead[request_id] = ahead, self._departures
        self._waiting.append(number)
        start_s = self._start_s(ahead)
        if start_s is None or self._token_s is None:
            return QueuePosition(ahead, start_s, None)
        return QueuePosition(ahead, start_s, start_s + median_tokens * self._token_s)

    def start(self, request_id: str, now_s: float) -> int:
        """A request starts; how many that came after it left the queue before it."""
        ahead, departures = self._ahead[request_id]
        departed = self._departures - departures
        passed_by = departed - (ahead - self._leave(request_id))
        if self._started_s is not None:
            self._gaps.append(now_s - self._started_s)
        self._started_s = now_s if self._waiting else None
        return max(passed_by, 0)

    def withdraw(self, request_id: str) -> None:
        """A request goes away without a start."""
        self._leave(request_id)

    def ended(self, seconds: float, tokens: int) -> None:
        """An answer of this many tokens took this long from its start."""
        if tokens:
            taken = seconds / tokens
            known = taken if self._token_s is None else self._token_s
            self._token_s = TOKEN_FADE * known + (1 - TOKEN_FADE) * taken

    def _leave(self, request_id: str) -> int:
        """Remove a request; how many before it still wait."""
        number = self._number.pop(request_id)
        del self._ahead[request_id]
        place = bisect_left(self._waiting, number)
        del self._waiting[place]
        self._departures += 1
        return place

    def _start_s(self, ahead: int) -> float | None:
        if not ahead:
            return 0.0
        return ahead * sum(self._gaps) / len(self._gaps) if self._gaps else None
