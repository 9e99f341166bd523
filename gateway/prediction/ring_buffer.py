"""The last values of one series, in a fixed amount of memory."""

from array import array

import numpy as np

from gateway.quantiles import Bools, Floats

REFRESH_DIVISOR = 32  # what is derived from n values is renewed after n / REFRESH_DIVISOR new ones


class RingBuffer:
    """A ring of at most `size` float32 values, each natural or censored (a lower bound)."""

    __slots__ = ("_censored", "_fresh", "_next", "_values", "size", "total")

    def __init__(self, size: int) -> None:
        self.size = size
        self.total = 0
        self._values = array("f")
        self._censored = bytearray()
        self._next = 0
        self._fresh = 0

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: float, *, censored: bool = False) -> None:
        """Keep a value, and forget the oldest where the ring is full."""
        if len(self._values) < self.size:
            self._values.append(value)
            self._censored.append(censored)
        else:
            self._values[self._next] = value
            self._censored[self._next] = censored
        self._next = (self._next + 1) % self.size
        self.total += 1
        self._fresh += 1

    def values(self) -> tuple[Floats, Bools]:
        """The values held, in no particular order, and which of them are censored."""
        values = np.array(self._values, dtype=np.float64)
        return values, np.array(self._censored, dtype=np.bool_)

    def stale(self) -> bool:
        """Whether so much is new that what was derived should be renewed; asking resets it."""
        if self._fresh <= len(self._values) // REFRESH_DIVISOR:
            return False
        self._fresh = 0
        return True
