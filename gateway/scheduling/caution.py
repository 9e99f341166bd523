"""How much KV memory is kept free above what is expected: tuned on preemptions."""

from typing import Final

LEAST: Final = 0.0  # what is expected, and nothing above
MOST: Final = 8.0
GAIN: Final = 0.2
TARGET: Final = 0.05


class Caution:
    """The z of admission, in standard deviations.

    Each preempted request raises it, each that ended while others waited lowers it, so that it
    comes to rest where a share `target` of these is preempted (stochastic approximation, Robbins
    and Monro 1951): errors that correlate, which z knows nothing of, are paid for like all others.
    """

    def __init__(self, z: float, target: float = TARGET) -> None:
        self.z = z  # standard deviations to keep free
        self._target = target

    def observed(self, ended: int, preempted: int) -> None:
        """So many requests ended while others waited, and so many were preempted, since then."""
        z = self.z + GAIN * (preempted - self._target * ended)
        self.z = min(max(z, min(LEAST, self.z)), max(MOST, self.z))
