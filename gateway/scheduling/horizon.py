"""Which future steps to look at: every one of the near ones, ever wider intervals after."""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]

EACH: Final = 16  # steps looked at one by one
WIDENING: Final = 1.125
FARTHEST: Final = 2**22


def _interval_ends() -> Floats:
    ends = [float(step) for step in range(EACH + 1)]
    while ends[-1] < FARTHEST:
        ends.append(float(int(ends[-1] * WIDENING)))
    return np.array(ends)


LAST: Final = _interval_ends()
FIRST: Final = np.concatenate([LAST[:1], LAST[:-1] + 1])


def intervals(steps: int) -> int:
    """How many intervals, each from `FIRST[i]` through `LAST[i]`, cover steps 0 … `steps`."""
    return int(np.searchsorted(LAST, steps)) + 1
