"""The quantiles of a predicted length: their levels, the two that decisions read, array types."""

from statistics import NormalDist
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]

LEVELS: Final = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95)  # τ
MEDIAN: Final = LEVELS.index(0.5)
P90: Final = LEVELS.index(0.9)
NORMAL: Final = tuple(NormalDist().inv_cdf(level) for level in LEVELS)
"""The quantiles of the standard normal distribution."""
