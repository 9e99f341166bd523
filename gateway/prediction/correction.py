"""By how much an app's answers miss the model, learned from each outcome between two trainings.

A Bayesian straight line in the input's length per app, fitted recursively, old outcomes fading. It
is held near zero for an app that training saw, unless its answers miss by more than chance explains
(a new prompt, say); for a newcomer it is free from the start.
"""

import math
from collections import OrderedDict
from typing import Final
from uuid import UUID

FADING: Final = 0.99  # an outcome counts for so much less with every later one
MIDDLE: Final = 3.5  # of log(1 + UIL): where slope and intercept tell different things
FREE: Final = (1.0, 0.7)  # standard deviations of intercept and slope beforehand
HELD: Final = (0.05, 0.02)
CHANCE: Final = 4.0  # standard errors; a larger mean miss is no chance
NOISE: Final = 0.25  # variance of a miss, until there are outcomes
NOISE_SHARE: Final = 0.03  # of the newest miss in that variance
MOST_DEVIATION: Final = 4.0  # an outcome further off counts as one so far
MAX_APPS: Final = 10_000


class Correction:
    """One app's line. Lengths are natural logarithms of tokens."""

    __slots__ = ("_free", "_noise", "_squares", "_sums", "_weight")

    def __init__(self, *, free: bool) -> None:
        self._free = free
        self._noise = NOISE
        self._weight = 0.0  # outcomes, faded
        self._squares = (0.0, 0.0)  # of the input's length: sum, sum of squares
        self._sums = (0.0, 0.0)  # of misses, and times the input's length

    def shift(self, log_uil: float) -> float:
        """What to add to the logarithm of a predicted length."""
        if not self._weight:
            return 0.0
        x = log_uil - MIDDLE
        free = self._free or self._surprised()
        held = [self._noise / deviation**2 for deviation in (FREE if free else HELD)]
        a, b, d = self._weight + held[0], self._squares[0], self._squares[1] + held[1]
        scale = a * d - b * b
        intercept = (d * self._sums[0] - b * self._sums[1]) / scale
        slope = (a * self._sums[1] - b * self._sums[0]) / scale
        return intercept + slope * x

    def learn(self, log_uil: float, missed: float) -> None:
        """Take in by how much a length exceeded what was predicted, uncorrected."""
        x = log_uil - MIDDLE
        expected = self.shift(log_uil)
        most = MOST_DEVIATION * math.sqrt(self._noise)
        off = min(max(missed - expected, -most), most)
        self._noise += NOISE_SHARE * (off * off - self._noise)
        missed = expected + off
        self._weight = FADING * self._weight + 1.0
        self._squares = FADING * self._squares[0] + x, FADING * self._squares[1] + x * x
        self._sums = FADING * self._sums[0] + missed, FADING * self._sums[1] + missed * x

    def _surprised(self) -> bool:
        """Whether the mean miss is more than chance."""
        error = math.sqrt(self._noise * self._weight * (1 + FADING) / 2)
        return abs(self._sums[0]) > CHANCE * error


class Corrections:
    """The corrections of all apps; those in `known` were seen in training."""

    def __init__(self, known: frozenset[UUID] = frozenset()) -> None:
        self._known = known
        self._apps: OrderedDict[UUID, Correction] = OrderedDict()

    def shift(self, app: UUID, log_uil: float) -> float:
        """What to add to the logarithm of a predicted length."""
        own = self._apps.get(app)
        return own.shift(log_uil) if own is not None else 0.0

    def learn(self, app: UUID, log_uil: float, missed: float) -> None:
        """Take in by how much a length exceeded what was predicted, uncorrected."""
        own = self._apps.pop(app, None) or Correction(free=app not in self._known)
        own.learn(log_uil, missed)
        self._apps[app] = own
        if len(self._apps) > MAX_APPS:
            self._apps.popitem(last=False)
