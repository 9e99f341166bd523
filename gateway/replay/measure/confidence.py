"""Confidence intervals of means over seeds."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from msgspec import Struct

COVERAGE: Final = 0.95


class ConfidenceInterval(Struct, frozen=True):
    """A mean over seeds with the bounds of its 95 % interval, which are NaN for one seed."""

    mean: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2


def confidence_interval(values: Sequence[float]) -> ConfidenceInterval:
    """The mean with its interval by Student's t distribution; NaN if any value is NaN."""
    mean = float(np.mean(values))
    if len(values) == 1:
        return ConfidenceInterval(mean, float("nan"), float("nan"))
    from scipy.special import stdtrit  # noqa: PLC0415 - imported for several seeds only

    t_quantile = float(stdtrit(len(values) - 1, (1 + COVERAGE) / 2))
    half = t_quantile * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return ConfidenceInterval(mean, mean - half, mean + half)
