"""Values sampled over time, of which a bounded number is kept."""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]

SHORTEST_S: Final = 1e-3


class Series:
    """Rows of values, equally far apart in time.

    How long a run takes is not known before: when `most` rows are there, every other one is
    dropped, and from then on they are twice as far apart.
    """

    def __init__(self, began_s: float, about_s: float, most: int) -> None:
        if most < 2:  # noqa: PLR2004
            raise ValueError(f"a series has 2 rows or more, not {most}")
        self.next_s = self._began_s = began_s
        self._apart_s = max(2 * about_s / most, SHORTEST_S)
        self._most = most
        self._rows: list[tuple[float, ...]] = []

    def add(self, *values: float) -> None:
        """The values at `next_s`."""
        self._rows.append((self.next_s, *values))
        if len(self._rows) == self._most:
            self._rows = self._rows[::2]
            self._apart_s *= 2
        self.next_s = self._began_s + len(self._rows) * self._apart_s

    def columns(self, width: int) -> Floats:
        """Times and values: (1 + width, rows)."""
        return np.array(self._rows, dtype=np.float64).reshape(-1, 1 + width).T
