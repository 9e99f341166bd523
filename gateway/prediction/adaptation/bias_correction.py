"""By how much an app's answers miss the model, learned from each outcome between two trainings.

A Bayesian linear regression of the misses on the input's length and on what the model said, per
app, old outcomes fading: ridge regression in recursive form (Rasmussen and Williams 2006, 2.1).
It is held near zero for an app that training saw, and free from the start for a newcomer, whose
quantiles are also drawn as far from the median as its misses are. Two cumulative sums (Page 1954)
watch for answers that begin to miss in one direction, as after a new prompt: what was learned
before that began is dropped then, and the app is free.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, TypeAlias
from uuid import UUID

import numpy as np

from gateway.quantiles import Floats

DISCOUNT: Final = 0.995  # an outcome counts for so much less with every later one
CENTRE_LOG_LENGTH: Final = 3.5  # of a log length: where slopes and intercept tell different things
UNSEEN_PRIOR_SD: Final = (1.0, 0.7, 0.7)  # standard deviations of intercept and slopes beforehand
SEEN_PRIOR_SD: Final = (0.03, 0.01, 0.01)
ALARMED_PRIOR_SD: Final = (1.0, 0.2, 0.2)  # of an app that training saw, after an alarm
CUSUM_SLACK: Final = 0.5  # spreads that a miss may be off without raising suspicion
CUSUM_THRESHOLD: Final = 12.0  # spreads; a sum of misses beyond is no chance
PRIOR_OUTCOMES: Final = 5.0  # outcomes' worth of trust in the spread that the model says
P90_Z: Final = 1.2816  # standard deviations from the median of a normal to its 0.9 quantile
MIN_SPREAD: Final = 0.03
MAX_DEVIATION: Final = 4.0  # an outcome further off, in spreads, counts as one so far
MAX_APPS: Final = 10_000

RawQuantiles: TypeAlias = Sequence[float]  # ln quantiles of the version: the median, then the 0.9


class _ResidualScale:
    """How far misses are spread, in spreads that the model said: faded squares of them."""

    __slots__ = ("squares", "weight")

    def __init__(self, squares: float = 0.0, weight: float = 0.0) -> None:
        self.squares = squares
        self.weight = weight

    def add(self, left: float) -> None:
        self.squares = DISCOUNT * self.squares + left * left
        self.weight = DISCOUNT * self.weight + 1.0

    def stretch(self) -> float:
        return math.sqrt((PRIOR_OUTCOMES + self.squares) / (PRIOR_OUTCOMES + self.weight))


class _CusumSide:
    """Misses in one direction: their cumulative sum, and what came since it was last zero."""

    __slots__ = ("products", "scale", "sum")

    def __init__(self, scale: _ResidualScale) -> None:
        self.sum = 0.0
        self.products = np.zeros((4, 4))
        self.scale = _ResidualScale(scale.squares, scale.weight)  # as it was before


class BiasCorrection:
    """One app's line. Lengths are natural logarithms of tokens."""

    __slots__ = ("_coefficients", "_prior", "_products", "_scale", "_sides")

    def __init__(self, *, free: bool) -> None:
        self._prior = UNSEEN_PRIOR_SD if free else SEEN_PRIOR_SD
        self._products = np.zeros((4, 4))  # faded, of (1, length of the input, said, miss)
        self._scale = _ResidualScale()
        self._sides = {sign: _CusumSide(self._scale) for sign in (1, -1)}
        self._coefficients = (0.0, 0.0, 0.0)

    @property
    def stretch(self) -> float:
        """What to multiply distances from the median by."""
        return 1.0 if self._prior is SEEN_PRIOR_SD else self._scale.stretch()

    def shift(self, log_uil: float, said: RawQuantiles) -> float:
        """What to add to the logarithm of a predicted length."""
        intercept, by_input, by_said = self._coefficients
        return (
            intercept
            + by_input * (log_uil - CENTRE_LOG_LENGTH)
            + by_said * (said[0] - CENTRE_LOG_LENGTH)
        )

    def learn(self, log_uil: float, said: RawQuantiles, missed: float) -> bool:
        """Take in by how much a length exceeded the median said; whether the alarm went off."""
        spread = max((said[1] - said[0]) / P90_Z, MIN_SPREAD)
        scale = spread * self._scale.stretch()
        expected = self.shift(log_uil, said)
        off = min(max((missed - expected) / scale, -MAX_DEVIATION), MAX_DEVIATION)
        row = np.array((1.0, log_uil - CENTRE_LOG_LENGTH, said[0] - CENTRE_LOG_LENGTH, missed))
        alarmed = self._watch(off, row)
        if not alarmed:
            row[3] = expected + off * scale
            self._products = DISCOUNT * self._products + row[:, None] * row
            self._scale.add(off * scale / spread)
        self._solve(spread * self._scale.stretch())
        return alarmed

    def _watch(self, off: float, row: Floats) -> bool:
        """Sum up both ways, and begin anew with what came since the one that went too far."""
        for sign, side in self._sides.items():
            side.sum += sign * off - CUSUM_SLACK
            if side.sum <= 0:
                self._sides[sign] = _CusumSide(self._scale)
                continue
            side.products = DISCOUNT * side.products + row[:, None] * row
            if side.sum > CUSUM_THRESHOLD:
                self._prior = ALARMED_PRIOR_SD if self._prior is SEEN_PRIOR_SD else self._prior
                self._products, self._scale = side.products, side.scale
                self._sides = {each: _CusumSide(self._scale) for each in self._sides}
                return True
        return False

    def _solve(self, noise: float) -> None:
        held = np.diag((noise / np.array(self._prior)) ** 2)
        found = np.linalg.solve(self._products[:3, :3] + held, self._products[:3, 3])
        self._coefficients = tuple(found.tolist())


class BiasCorrections:
    """The corrections of all apps; those in `known` were seen in training."""

    def __init__(self, known: frozenset[UUID] = frozenset()) -> None:
        self._known = known
        self._apps: OrderedDict[UUID, BiasCorrection] = OrderedDict()

    def shift(self, app: UUID, log_uil: float, said: RawQuantiles) -> float:
        """What to add to the logarithm of a predicted length."""
        own = self._apps.get(app)
        return own.shift(log_uil, said) if own is not None else 0.0

    def stretch(self, app: UUID) -> float:
        """What to multiply distances from the median by."""
        own = self._apps.get(app)
        return own.stretch if own is not None else 1.0

    def learn(self, app: UUID, log_uil: float, said: RawQuantiles, missed: float) -> bool:
        """Take in by how much a length exceeded the median said; whether the alarm went off."""
        own = self._apps.pop(app, None) or BiasCorrection(free=app not in self._known)
        alarmed = own.learn(log_uil, said, missed)
        self._apps[app] = own
        if len(self._apps) > MAX_APPS:
            self._apps.popitem(last=False)
        return alarmed
