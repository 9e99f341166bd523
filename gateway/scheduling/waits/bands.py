"""Bands of waits from the errors of earlier expectations: conformal calibration.

The error of an expectation is

    z = ln((actual wait + g) / (expected wait + g))

with g the mean time between two starts, so that half a gap more or less counts little at the head
of the queue. The band lies between the 0.1 and the 0.9 quantile of the newest errors of its
stratum, the median between them. The levels follow the coverage (adaptive conformal inference,
Gibbs and Candès 2021): waits that grow are known later than those that do not.
"""

import math
from collections import deque
from typing import Final, NamedTuple

import numpy as np
from msgspec import Struct

WINDOW: Final = 64  # newest errors of a stratum
LEVELS: Final = (0.1, 0.5, 0.9)
LEVEL_STEP: Final = 0.02  # of a level, for an outcome
MAX_SHIFT: Final = 0.05  # of a level from its nominal one: a burst of misses passes
PRIOR_ERRORS: Final = (-1.2, -0.7, -0.4, -0.15, 0.15, 0.4, 0.7, 1.2)  # before outcomes
REFRESH: Final = 8  # outcomes between two readings of a window
MIN_ERRORS: Final = 16  # below this a stratum borrows those of all
EDGES: Final = (1.5, 4.0, 12.0, 40.0, 120.0)  # of strata, in expected waits over gaps
MIN_GAP_S: Final = 0.01


class WaitBand(NamedTuple):
    """Quantiles of a time from now, in seconds."""

    p10: float
    p50: float
    p90: float

    def later(self, seconds: float) -> "WaitBand":
        """The band when `seconds` have passed of it."""
        return WaitBand(*(max(each - seconds, 0.0) for each in self))


class Expected(NamedTuple):
    """An uncalibrated wait, as it was expected, and the mean gap between starts then."""

    wait_s: float
    gap_s: float

    @property
    def stratum(self) -> int:
        """Which of the strata it is in, by the number of starts before it."""
        starts = self.wait_s / self.gap_s
        return sum(starts >= edge for edge in EDGES)

    def error(self, actual_s: float) -> float:
        """Z of this outcome."""
        return math.log((max(actual_s, 0.0) + self.gap_s) / (self.wait_s + self.gap_s))

    def at(self, error: float) -> float:
        """The wait that would have this error."""
        return max((self.wait_s + self.gap_s) * math.exp(error) - self.gap_s, 0.0)


def expectation(wait_s: float, gap_s: float) -> Expected:
    """An expectation with a gap of at least `MIN_GAP_S`."""
    return Expected(max(wait_s, 0.0), max(gap_s, MIN_GAP_S))


class Quantiles(Struct, frozen=True):
    """The errors at `LEVELS`, and of how many outcomes."""

    errors: tuple[float, float, float]
    outcomes: int


class _Stratum:
    def __init__(self) -> None:
        self.errors: deque[float] = deque(maxlen=WINDOW)
        self.levels = list(LEVELS)
        self.outcomes = 0
        self._at: tuple[float, float, float] | None = None
        self._since = 0

    def learn(self, error: float) -> None:
        if self.outcomes >= MIN_ERRORS:
            self._follow(error)
        self.errors.append(error)
        self.outcomes += 1
        self._since += 1

    def _follow(self, error: float) -> None:
        """Raise a level after an error beyond its quantile, lower it after one within."""
        for number, (nominal, at) in enumerate(zip(LEVELS, self.quantiles(), strict=True)):
            moved = self.levels[number] + LEVEL_STEP * ((error > at) - (1 - nominal))
            self.levels[number] = min(max(moved, nominal - MAX_SHIFT), nominal + MAX_SHIFT)

    def quantiles(self) -> tuple[float, float, float]:
        """The errors at the levels; the prior's count as long as there are few."""
        if self._at is None or self._since >= min(REFRESH, 1 + self.outcomes // 8):
            prior = PRIOR_ERRORS if self.outcomes < 2 * len(PRIOR_ERRORS) else ()
            found = np.sort(np.array([*self.errors, *prior]))
            ranks = [_rank(level, len(found)) for level in self.levels]
            low, middle, high = found[ranks].tolist()
            self._at, self._since = (min(low, middle), middle, max(middle, high)), 0
        return self._at


def _rank(level: float, count: int) -> int:
    """The index of the conformal quantile among `count` sorted errors, rounded outwards."""
    position = (count + 1) * level
    whole = math.ceil(position) if level > LEVELS[1] else math.floor(position)
    return min(max(whole, 1), count) - 1


class WaitCalibration:
    """The errors by stratum, and those of all."""

    def __init__(self) -> None:
        self._all = _Stratum()
        self._strata = [_Stratum() for _ in range(len(EDGES) + 1)]

    @property
    def outcomes(self) -> int:
        """How many outcomes were learned."""
        return self._all.outcomes

    def learn(self, expected: Expected, actual_s: float) -> None:
        """The wait that was expected took this long."""
        error = expected.error(actual_s)
        self._all.learn(error)
        self._strata[expected.stratum].learn(error)

    def band(self, expected: Expected) -> WaitBand:
        """The band of an expectation."""
        own = self._strata[expected.stratum]
        source = own if own.outcomes >= MIN_ERRORS else self._all
        return WaitBand(*(expected.at(error) for error in source.quantiles()))
