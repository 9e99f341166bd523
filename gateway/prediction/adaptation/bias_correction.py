"""Online bias correction per app: the expected residual of the model, learned from each outcome.

Bayesian linear regression of the log residual on the log input length and the log predicted
median, with exponential discounting: recursive ridge regression (Rasmussen and Williams 2006,
2.1). The prior is tight for an app in the training data and wide for an unseen app, whose quantiles
are also stretched around the median to the observed spread of its residuals. Two CUSUM statistics
(Page 1954) detect a persistent residual in one direction, as after a changed prompt: an alarm drops
what was learned before the change began and widens the prior. Skewed residuals, which are no
change, can raise one too: so what was known before is kept next to it for a while, whichever has
predicted the outcomes since better serves, and at the end it stays.
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
OUTCOMES_ON_TRIAL: Final = 64  # after an alarm, by which it is judged
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


class _Regression:
    """The discounted sums of the regression, and what follows from them."""

    __slots__ = ("coefficients", "prior", "products", "scale")

    def __init__(
        self, prior: tuple[float, float, float], products: Floats, scale: _ResidualScale
    ) -> None:
        self.prior = prior
        self.products = products  # discounted, of (1, input, median, residual)
        self.scale = scale
        self.coefficients = (0.0, 0.0, 0.0)

    def shift(self, log_uil: float, log_median: float) -> float:
        """The expected residual."""
        intercept, input_slope, median_slope = self.coefficients
        return (
            intercept
            + input_slope * (log_uil - CENTRE_LOG_LENGTH)
            + median_slope * (log_median - CENTRE_LOG_LENGTH)
        )

    def clipped(self, row: Floats, spread: float) -> float:
        """The residual of a row less the expected one, in spreads, clipped."""
        expected = np.dot(self.coefficients, row[:3])
        deviation = float(row[3] - expected) / (spread * self.scale.stretch())
        return min(max(deviation, -MAX_DEVIATION), MAX_DEVIATION)

    def learn(self, row: Floats, spread: float, deviation: float) -> None:
        """Add a row, its residual clipped."""
        scale = spread * self.scale.stretch()
        row = row.copy()
        row[3] = float(np.dot(self.coefficients, row[:3])) + deviation * scale
        self.products = DISCOUNT * self.products + row[:, None] * row
        self.scale.add(deviation * scale / spread)
        self.solve(spread)

    def solve(self, spread: float) -> None:
        """Compute the coefficients from the sums."""
        noise = spread * self.scale.stretch()
        ridge = np.diag((noise / np.array(self.prior)) ** 2)
        found = np.linalg.solve(self.products[:3, :3] + ridge, self.products[:3, 3])
        self.coefficients = tuple(found.tolist())


class _Trial:
    """An alarm on trial: what was known before it, and the errors of both since."""

    __slots__ = ("before", "error", "error_before", "outcomes")

    def __init__(self, before: _Regression) -> None:
        self.before = before
        self.error = self.error_before = 0.0
        self.outcomes = 0

    @property
    def refuted(self) -> bool:
        """Whether what was known before has predicted better since."""
        return self.error_before < self.error


class BiasCorrection:
    """The correction of one app. Lengths are natural logarithms of tokens."""

    __slots__ = ("_now", "_sides", "_trial")  # `_now`: since the newest alarm

    def __init__(self, *, unseen: bool) -> None:
        prior = UNSEEN_PRIOR_SD if unseen else SEEN_PRIOR_SD
        self._now = _Regression(prior, np.zeros((4, 4)), _ResidualScale())
        self._trial: _Trial | None = None
        self._restart()

    @property
    def stretch(self) -> float:
        """Factor on the distances of quantiles from the median."""
        serving = self._serving
        return 1.0 if serving.prior is SEEN_PRIOR_SD else serving.scale.stretch()

    def shift(self, log_uil: float, raw: RawQuantiles) -> float:
        """The expected residual: what to add to a predicted log length."""
        return self._serving.shift(log_uil, raw[0])

    def learn(self, log_uil: float, raw: RawQuantiles, residual: float) -> bool:
        """Learn the residual, log length less raw median; True if the CUSUM raised an alarm."""
        spread = max((raw[1] - raw[0]) / P90_Z, MIN_SPREAD)
        row = np.array((1.0, log_uil - CENTRE_LOG_LENGTH, raw[0] - CENTRE_LOG_LENGTH, residual))
        if self._trial is not None:
            self._judge(self._trial, row, spread)
        deviation = self._now.clipped(row, spread)
        if self._detect_change(deviation, row):
            self._now.solve(spread)
            return True
        self._now.learn(row, spread, deviation)
        return False

    @property
    def _serving(self) -> _Regression:
        trial = self._trial
        return self._now if trial is None or not trial.refuted else trial.before

    def _judge(self, trial: _Trial, row: Floats, spread: float) -> None:
        """Add an outcome to a trial, which also learns it; at its end the better one stays."""
        deviation = trial.before.clipped(row, spread)
        trial.error += abs(self._now.clipped(row, spread)) * self._now.scale.stretch()
        trial.error_before += abs(deviation) * trial.before.scale.stretch()
        trial.before.learn(row, spread, deviation)
        trial.outcomes += 1
        if trial.outcomes == OUTCOMES_ON_TRIAL:
            if trial.refuted:
                self._now = trial.before
                self._restart()
            self._trial = None

    def _detect_change(self, deviation: float, row: Floats) -> bool:
        """Update both CUSUMs; at an alarm go on with the sums since that CUSUM left zero."""
        now = self._now
        for sign, side in self._sides.items():
            side.sum += sign * deviation - CUSUM_SLACK
            if side.sum <= 0:
                self._sides[sign] = _CusumSide(now.scale)
                continue
            side.products = DISCOUNT * side.products + row[:, None] * row
            if side.sum > CUSUM_THRESHOLD:
                prior = ALARMED_PRIOR_SD if now.prior is SEEN_PRIOR_SD else now.prior
                self._trial = _Trial(now if self._trial is None else self._trial.before)
                self._now = _Regression(prior, side.products, side.scale)
                self._restart()
                return True
        return False

    def _restart(self) -> None:
        self._sides = {sign: _CusumSide(self._now.scale) for sign in (1, -1)}


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
