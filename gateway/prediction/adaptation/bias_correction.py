"""Online bias correction per app: the expected residual of the model, learned from each outcome.

Bayesian linear regression of the log residual on the log input length and the log predicted
median, with exponential discounting: recursive ridge regression (Rasmussen and Williams 2006,
2.1). The prior is tight for an app in the training data and wide for an unseen app, whose quantiles
are also stretched around the median to the observed spread of its residuals. Two CUSUM statistics
(Page 1954) detect a persistent residual in one direction, as after a changed prompt: an alarm drops
what was learned before the change began and widens the prior.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, TypeAlias
from uuid import UUID

import numpy as np

from gateway.quantiles import Floats

DISCOUNT: Final = 0.995  # weight of an outcome, per later outcome
CENTRE_LOG_LENGTH: Final = 3.5  # origin of the regressors: decorrelates intercept and slopes
UNSEEN_PRIOR_SD: Final = (1.0, 0.7, 0.7)  # prior sd of intercept, input slope, prediction slope
SEEN_PRIOR_SD: Final = (0.03, 0.01, 0.01)
ALARMED_PRIOR_SD: Final = (1.0, 0.2, 0.2)  # of an app in the training data, after an alarm
CUSUM_SLACK: Final = 0.5  # in spreads: deviation that the CUSUM tolerates
CUSUM_THRESHOLD: Final = 12.0  # in spreads
PRIOR_OUTCOMES: Final = 5.0  # weight of the predicted spread, in outcomes
P90_Z: Final = 1.2816  # 0.9 quantile of the standard normal
MIN_SPREAD: Final = 0.03
MAX_DEVIATION: Final = 4.0  # in spreads; residuals are clipped to it
MAX_APPS: Final = 10_000

RawQuantiles: TypeAlias = Sequence[float]  # ln quantiles of the version: median, 0.9, …


class _ResidualScale:
    """Discounted sum of squared residuals, in predicted spreads."""

    __slots__ = ("squares", "weight")

    def __init__(self, squares: float = 0.0, weight: float = 0.0) -> None:
        self.squares = squares
        self.weight = weight

    def add(self, residual: float) -> None:
        self.squares = DISCOUNT * self.squares + residual * residual
        self.weight = DISCOUNT * self.weight + 1.0

    def stretch(self) -> float:
        return math.sqrt((PRIOR_OUTCOMES + self.squares) / (PRIOR_OUTCOMES + self.weight))


class _CusumSide:
    """CUSUM of one direction, and the regression sums since it was last zero."""

    __slots__ = ("products", "scale", "sum")

    def __init__(self, scale: _ResidualScale) -> None:
        self.sum = 0.0
        self.products = np.zeros((4, 4))
        self.scale = _ResidualScale(scale.squares, scale.weight)  # state at the restart


class BiasCorrection:
    """The regression of one app. Lengths are natural logarithms of tokens."""

    __slots__ = ("_coefficients", "_prior", "_products", "_scale", "_sides")

    def __init__(self, *, unseen: bool) -> None:
        self._prior = UNSEEN_PRIOR_SD if unseen else SEEN_PRIOR_SD
        self._products = np.zeros((4, 4))  # discounted, of (1, input, median, residual)
        self._scale = _ResidualScale()
        self._sides = {sign: _CusumSide(self._scale) for sign in (1, -1)}
        self._coefficients = (0.0, 0.0, 0.0)

    @property
    def stretch(self) -> float:
        """Factor on the distances of quantiles from the median."""
        return 1.0 if self._prior is SEEN_PRIOR_SD else self._scale.stretch()

    def shift(self, log_uil: float, raw: RawQuantiles) -> float:
        """The expected residual: what to add to a predicted log length."""
        intercept, input_slope, raw_slope = self._coefficients
        return (
            intercept
            + input_slope * (log_uil - CENTRE_LOG_LENGTH)
            + raw_slope * (raw[0] - CENTRE_LOG_LENGTH)
        )

    def learn(self, log_uil: float, raw: RawQuantiles, residual: float) -> bool:
        """Learn the residual, log length less raw median; True if the CUSUM raised an alarm."""
        spread = max((raw[1] - raw[0]) / P90_Z, MIN_SPREAD)
        scale = spread * self._scale.stretch()
        expected = self.shift(log_uil, raw)
        deviation = min(max((residual - expected) / scale, -MAX_DEVIATION), MAX_DEVIATION)
        row = np.array((1.0, log_uil - CENTRE_LOG_LENGTH, raw[0] - CENTRE_LOG_LENGTH, residual))
        alarm = self._detect_change(deviation, row)
        if not alarm:
            row[3] = expected + deviation * scale
            self._products = DISCOUNT * self._products + row[:, None] * row
            self._scale.add(deviation * scale / spread)
        self._solve(spread * self._scale.stretch())
        return alarm

    def _detect_change(self, deviation: float, row: Floats) -> bool:
        """Update both CUSUMs; at an alarm keep only the sums since that CUSUM left zero."""
        for sign, side in self._sides.items():
            side.sum += sign * deviation - CUSUM_SLACK
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
        ridge = np.diag((noise / np.array(self._prior)) ** 2)
        coefficients = np.linalg.solve(self._products[:3, :3] + ridge, self._products[:3, 3])
        self._coefficients = tuple(coefficients.tolist())


class BiasCorrections:
    """The corrections of all apps; those in `known` are in the training data."""

    def __init__(self, known: frozenset[UUID] = frozenset()) -> None:
        self._known = known
        self._apps: OrderedDict[UUID, BiasCorrection] = OrderedDict()

    def shift(self, app: UUID, log_uil: float, raw: RawQuantiles) -> float:
        """The expected residual: what to add to a predicted log length."""
        correction = self._apps.get(app)
        return correction.shift(log_uil, raw) if correction is not None else 0.0

    def stretch(self, app: UUID) -> float:
        """Factor on the distances of quantiles from the median."""
        correction = self._apps.get(app)
        return correction.stretch if correction is not None else 1.0

    def learn(self, app: UUID, log_uil: float, raw: RawQuantiles, residual: float) -> bool:
        """Learn the residual, log length less raw median; True if the CUSUM raised an alarm."""
        correction = self._apps.pop(app, None) or BiasCorrection(unseen=app not in self._known)
        alarm = correction.learn(log_uil, raw, residual)
        self._apps[app] = correction
        if len(self._apps) > MAX_APPS:
            self._apps.popitem(last=False)
        return alarm
