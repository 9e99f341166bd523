"""How long requests would take under first come, first served: what waits are measured by."""

from typing import Final

FADE: Final = 0.999  # of the longest wait, with each turn: half of it is left after 693
KEEP: Final = 0.995  # of a request's weight in the mean, with each that comes later
MOST_RUNS: Final = 2.0  # times the mean run: what a long one gets for it at most
MOST_WAITS: Final = 4.0  # times the longest wait
LEAST_S: Final = 1e-3


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
