"""How much memory the batch lane leaves for interactive requests that will arrive.

Time is cut into windows of one mean run in the lane. In each, the interactive requests that started
in it held some peak of pages at once: earlier ones are among the running sequences that admission
sees. The reserve is the 0.95 quantile of the last windows' peaks.
"""

from collections import deque
from math import ceil
from typing import Final

MAX_WINDOWS: Final = 20
QUANTILE: Final = 0.95
MIN_WINDOW_S: Final = 0.1


class ArrivalReserve:
    """Learns the reserve from interactive starts and ends; all times come from one clock.

    It begins with what interactive requests hold when the lane is first used: they have arrived
    within one run of their own. A window without arrivals counts as zero, so 19 of them free
    everything.
    """

    def __init__(self) -> None:
        self._peaks: deque[int] = deque(maxlen=MAX_WINDOWS)
        self._began_s = 0.0
        self._held: dict[str, int] = {}  # pages of those that started in this window
        self._pages = 0
        self._peak = 0
        self._begun = False

    def begin(self, now_s: float, pages: int) -> None:
        """The lane is used for the first time; interactive requests hold this many pages."""
        if not self._begun:
            self._begun = True
            self._began_s = now_s
            self._peaks.append(pages)

    def started(self, request_id: str, pages: int, now_s: float, window_s: float) -> None:
        """An interactive request started, and will hold this many pages."""
        if not self._begun:
            return
        self._roll(now_s, window_s)
        self._held[request_id] = pages
        self._pages += pages
        self._peak = max(self._peak, self._pages)

    def ended(self, request_id: str) -> None:
        """An interactive request ended; one that started in an earlier window is ignored."""
        self._pages -= self._held.pop(request_id, 0)

    def at(self, now_s: float, window_s: float) -> int:
        """The pages to leave now, given the mean run in the lane."""
        self._roll(now_s, window_s)
        if not self._peaks:
            return 0
        return sorted(self._peaks)[ceil(QUANTILE * len(self._peaks)) - 1]

    def _roll(self, now_s: float, window_s: float) -> None:
        """Close the windows that have passed."""
        window_s = max(window_s, MIN_WINDOW_S)
        passed = int((now_s - self._began_s) // window_s)
        if passed < 1:
            return
        self._peaks.append(self._peak)
        self._peaks.extend([0] * min(passed - 1, MAX_WINDOWS))
        self._began_s += passed * window_s
        self._held.clear()
        self._pages = self._peak = 0
