"""How much KV memory is kept free above what is expected: tuned on preemptions."""

from typing import Final

LEAST: Final = 0.5
MOST: Final = 8.0
WINDOW: Final = 100  # ended requests between two changes
TOO_MANY: Final = 0.005  # of them preempted
RAISE: Final = 0.35
LOWER: Final = 0.93  # times


class Caution:
    """The z of admission, in standard deviations.

    Raised where more than 0.5 % of the last requests were preempted, lowered a little where none
    was.
    """

    def __init__(self, z: float) -> None:
        self.z = z  # standard deviations to keep free
        self._ended = 0
        self._preempted = 0

    def observed(self, ended: int, preempted: int) -> None:
        """So many requests ended, and so many were preempted, since the last call."""
        self._ended += ended
        self._preempted += preempted
        if self._ended < WINDOW:
            return
        share = self._preempted / self._ended
        if share > TOO_MANY:
            self.z = min(self.z + RAISE, max(MOST, self.z))
        elif not self._preempted:
            self.z = max(self.z * LOWER, min(LEAST, self.z))
        self._ended = self._preempted = 0
