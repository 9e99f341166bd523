"""How much KV memory is kept free above what is expected: tuned on preemptions."""

from statistics import NormalDist
from typing import Final

LEAST: Final = 0.0  # what is expected, and nothing above
MOST: Final = 8.0
CALM: Final = 500.0  # requests without a preemption that lower z by 1
RAREST: Final = 0.001  # a target below is held as this one is
TARGET: Final = 0.1
STALLS: Final = 1.6  # requests held up by preemptions, for each that ends, that pay


def first_z(target: float) -> float:
    """The z to begin with: a normal peak is above it with the probability `target`."""
    return max(NormalDist().inv_cdf(1 - min(max(target, RAREST), 1 - RAREST)), LEAST)


class SafetyMargin:
    """The z of admission, in standard deviations.

    Each preemption raises it, each request that ended while others waited lowers it, so that it
    comes to rest at `target` preemptions for each of these (stochastic approximation, Robbins and
    Monro 1951): errors that correlate, which z knows nothing of, are paid for like all others. The
    rarer preemptions shall be, the more each tells.

    While what was preempted is computed again all others wait, and the memory it made room for is
    one part in as many as run: the more run, the rarer preemptions shall be.
    """

    def __init__(self, z: float, target: float = TARGET) -> None:
        self.z = z  # standard deviations to keep free
        self._target = target

    def observed(self, ended: int, preempted: int, running: int) -> None:
        """So many requests ended while others waited, and so many preemptions were, since then.

        `running` is how many run now.
        """
        target = min(self._target, STALLS / max(running, 1))
        z = self.z + (preempted - target * ended) / (CALM * max(target, RAREST))
        self.z = min(max(z, min(LEAST, self.z)), max(MOST, self.z))
