"""The safety margin z of admission: adapts to a target preemption rate."""

from statistics import NormalDist
from typing import Final

MIN_Z: Final = 0.0  # the mean, without a margin
MAX_Z: Final = 8.0
COMPLETIONS_PER_Z: Final = 500.0  # completions without a preemption that lower z by 1
DEFAULT_TARGET: Final = 0.1  # preemptions per completion
MIN_TARGET: Final = 0.001  # bounds the step size of lower targets
MAX_STALLS_PER_COMPLETION: Final = 1.6  # sequences stalled by preemptions, per completion


def initial_z(target: float) -> float:
    """The initial z: a normally distributed peak exceeds it with probability `target`."""
    return max(NormalDist().inv_cdf(1 - min(max(target, MIN_TARGET), 1 - MIN_TARGET)), MIN_Z)


class SafetyMargin:
    """The margin z, in standard deviations of KV use.

    Each preemption raises z; each completion while others queue lowers it. It settles at `target`
    preemptions per such completion (stochastic approximation; Robbins and Monro, 1951), which also
    covers correlated prediction errors, absent from the standard deviation. The lower the target,
    the larger the step per preemption.

    While a preempted sequence is recomputed, all running sequences stall, but the pages it freed
    are one sequence's. So the target falls in inverse proportion to the number running.
    """

    def __init__(self, z: float, target: float = DEFAULT_TARGET) -> None:
        self.z = z
        self._target = target

    def observed(self, ended: int, preempted: int, running: int) -> None:
        """Feed back `ended` completions (while others queued) and `preempted` preemptions.

        Both count since the last call. `running` is the number of sequences running now.
        """
        target = min(self._target, MAX_STALLS_PER_COMPLETION / max(running, 1))
        z = self.z + (preempted - target * ended) / (COMPLETIONS_PER_Z * max(target, MIN_TARGET))
        self.z = min(max(z, min(MIN_Z, self.z)), max(MAX_Z, self.z))
