"""Who came before whom in the queue, and how fast it moves."""

from bisect import bisect_left
from collections import deque
from itertools import count
from typing import Final

from gateway.generation.live import LiveRequest

RECENT: Final = 64  # starts and answers that speeds are measured over
FADE: Final = 0.95


class Places:
    """Tells each request how many wait when it comes, and how many passed it when it starts.

    Expectations take the queue to go on as it did lately: as many starts a second, as many seconds
    a token.
    """

    def __init__(self) -> None:
        self._numbers = count()
        self._waiting: list[int] = []  # numbers, rising
        self._number: dict[str, int] = {}
        self._ahead: dict[str, tuple[int, int]] = {}  # those that waited, and starts, at arrival
        self._starts = 0
        self._left = 0  # without a start
        self._gaps: deque[float] = deque(maxlen=RECENT)  # between starts while others wait
        self._started_s: float | None = None
        self._token_s: float | None = None

    def arrive(self, live: LiveRequest) -> None:
        """A request waits."""
        number = self._number[live.id.hex] = next(self._numbers)
        live.queue_ahead = len(self._waiting)
        self._ahead[live.id.hex] = live.queue_ahead, self._starts + self._left
        self._waiting.append(number)
        live.expected_start_s = self._start_s(live.queue_ahead)
        if live.expected_start_s is not None and self._token_s is not None:
            run_s = live.prediction.quantiles[2] * self._token_s
            live.expected_finish_s = live.expected_start_s + run_s

    def start(self, live: LiveRequest, now_s: float) -> None:
        """A request starts: how many passed it is known."""
        ahead, gone = self._ahead[live.id.hex]
        left_since = self._starts + self._left - gone
        live.passed_by = max(left_since - (ahead - self._leave(live)), 0)
        self._starts += 1
        if self._started_s is not None:
            self._gaps.append(now_s - self._started_s)
        self._started_s = now_s if self._waiting else None

    def withdraw(self, live: LiveRequest) -> None:
        """A request goes away without a start."""
        self._leave(live)
        self._left += 1

    def ended(self, seconds: float, tokens: int) -> None:
        """An answer of so many tokens took so long from its start."""
        if tokens:
            taken = seconds / tokens
            known = taken if self._token_s is None else self._token_s
            self._token_s = FADE * known + (1 - FADE) * taken

    def _leave(self, live: LiveRequest) -> int:
        """Those before it that wait on."""
        number = self._number.pop(live.id.hex)
        del self._ahead[live.id.hex]
        place = bisect_left(self._waiting, number)
        del self._waiting[place]
        return place

    def _start_s(self, ahead: int) -> float | None:
        if not ahead:
            return 0.0
        return ahead * sum(self._gaps) / len(self._gaps) if self._gaps else None
