"""A fixed-size buffer of the newest values of a series."""

from array import array

import numpy as np

from gateway.quantiles import Bools, Floats

REFRESH_DIVISOR = 32  # statistics of n values are recomputed after n / REFRESH_DIVISOR


class RingBuffer:
    """The newest `size` float32 values, each natural or censored (a lower bound).

    `total` counts all values ever added.
    """

    __slots__ = ("_censored", "_next", "_since_refresh", "_values", "size", "total")

    def __init__(self, size: int) -> None:
        self.size = size
        self.total = 0
        self._values = array("f")
        self._censored = bytearray()
        self._next = 0
        self._since_refresh = 0

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: float, *, censored: bool = False) -> None:
        """Append a value; a full buffer drops its oldest."""
        if len(self._values) < self.size:
            self._values.append(value)
            self._censored.append(censored)
        else:
            self._values[self._next] = value
            self._censored[self._next] = censored
        self._next = (self._next + 1) % self.size
        self.total += 1
        self._since_refresh += 1

    def values(self) -> tuple[Floats, Bools]:
        """The values, in no particular order, and which of them are censored; (n,) both."""
        values = np.array(self._values, dtype=np.float64)
        return values, np.array(self._censored, dtype=np.bool_)

    def needs_refresh(self) -> bool:
        """Whether enough values were added to recompute statistics; True resets the count."""
        if self._since_refresh <= len(self._values) // REFRESH_DIVISOR:
            return False
        self._since_refresh = 0
        return True
