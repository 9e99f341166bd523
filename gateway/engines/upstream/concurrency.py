"""How many sequences a server is given at once: those that it runs, and a queue of about a step."""

from math import ceil
from typing import Final

MIN_QUEUED: Final = 4
QUEUED_SHARE: Final = 0.1  # of what runs
FIRST_RUNNING: Final = 4  # taken to run at once before anything has run
PATIENCE_S: Final = 2.0  # a sequence that waits for longer shows that no more run at once
WINDOW_S: Final = 2.0


def queued(running: int) -> int:
    """The sequences that wait at a server that runs this number of them."""
    return max(MIN_QUEUED, ceil(QUEUED_SHARE * running))


class ConcurrencyLimit:
    """Learns how many sequences a server runs at once, unless that is `known`.

    A sequence runs once its first token has come. The most that ran at once are what the server can
    run, until sequences wait in it while fewer run.
    """

    def __init__(self, known: int | None = None) -> None:
        self._known = known
        self.running = known or FIRST_RUNNING
        self._peaks = [0, 0]  # the most that ran, in the window before and in this one
        self._window_s = 0.0

    @property
    def limit(self) -> int:
        """The most sequences to submit."""
        return self.running + queued(self.running)

    def observe(self, now_s: float, running: int, longest_wait_s: float) -> None:
        """`running` have a token; the oldest of the others was submitted `longest_wait_s` ago."""
        if now_s - self._window_s > WINDOW_S:
            self._window_s = now_s
            self._peaks = [self._peaks[1], 0]
        self._peaks[1] = max(self._peaks[1], running)
        if self._known is not None:
            return
        peak = max(self._peaks)
        if running > self.running or (longest_wait_s > PATIENCE_S and 0 < peak < self.running):
            self.running = peak

    def refused(self, accepted: int) -> None:
        """The server takes no more than it has accepted already."""
        if self._known is None:
            self.running = max(1, min(self.running, accepted - queued(accepted)))
