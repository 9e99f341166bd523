"""Means over seeds with their intervals."""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct

COVERED = 0.95


class ConfidenceInterval(Struct, frozen=True):
    """A mean over seeds, and the bounds of its 95 % interval; those are NaN for one seed."""

    mean: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2


def estimate(values: Sequence[float]) -> ConfidenceInterval:
    """The mean with its interval by Student's t distribution; NaN where any value is."""
    mean = float(np.mean(values))
    if len(values) == 1:
        return ConfidenceInterval(mean, float("nan"), float("nan"))
    from scipy.special import stdtrit  # noqa: PLC0415 - only runs of several seeds wait for it

    times = float(stdtrit(len(values) - 1, (1 + COVERED) / 2))
    half = times * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return ConfidenceInterval(mean, mean - half, mean + half)
