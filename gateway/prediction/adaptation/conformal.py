"""Conformal calibration: offsets that give the upper quantiles their nominal coverage.

One-sided split-conformal prediction (Romano, Patterson and Candès 2019) on log lengths: the
conformity score of an outcome is its log length less the predicted log quantile; the offset at
level p is the ⌈(n + 1)p⌉-th smallest of the last n scores. It is signed: a quantile that covers
too much is lowered. An app with few outcomes uses the offset over all apps. Where lengths drift,
the last n scores say too little of the next: p follows the coverage (adaptive conformal inference,
Gibbs and Candès 2021).

No band is sharper than its outcomes justify: after n of them, however alike, its quantiles lie at
least as far from the median as those of a normal distribution with the standard deviation
WIDTH_OF_NONE / √(n + 1) of the log length. (After n equal outcomes the next may differ with
probability 1 / (n + 1); so may the answer to another text.)
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import numpy as np
from msgspec import Struct

from gateway.prediction.censoring import kaplan_meier, weighted_quantiles
from gateway.prediction.ring_buffer import RingBuffer
from gateway.quantiles import LEVELS, MEDIAN, NORMAL, Bools, Floats

CALIBRATED_LEVELS: Final = LEVELS[-2:]  # nominal coverage of the calibrated quantiles
WINDOW_SCORES: Final = 500
MIN_APP_SCORES: Final = 50
MIN_GLOBAL_SCORES: Final = 20
MAX_APPS: Final = 10_000
LEVEL_STEP: Final = 0.005  # of p, for an outcome
MAX_LOWERED: Final = 0.05  # by which p may fall below the nominal coverage
MAX_RAISED: Final = 10.0  # factor by which 1 - p may fall
WIDTH_OF_NONE: Final = 0.5  # least standard deviation of the log length before any outcome

Offsets = tuple[float, ...]
NO_OFFSETS: Final[Offsets] = (0.0,) * len(CALIBRATED_LEVELS)


class Calibration(Struct, frozen=True):
    """Offsets of the log quantiles at `CALIBRATED_LEVELS`, from a number of outcomes."""

    offsets: Offsets
    outcomes: int


class ConformityScores(Struct, frozen=True):
    """Initial scores, oldest first: an app and a score for each of `CALIBRATED_LEVELS`."""

    apps: list[UUID]
    scores: list[tuple[float, ...]]
    censored: list[bool]


NO_SCORES: Final = ConformityScores([], [], [])


def least_spread(outcomes: int) -> float:
    """The least standard deviation of the log length that is served after n outcomes."""
    return WIDTH_OF_NONE / math.sqrt(outcomes + 1)


def conformal_offset(scores: Floats, censored: Bools, level: float) -> float:
    """The offset that gives a log quantile at `level` its coverage, from n ≥ 1 scores.

    A censored score is a lower bound. If n is too small for the level: the largest score.
    """
    ordered, weights = kaplan_meier(scores, censored)
    n = len(scores)
    rank = math.ceil((n + 1) * level - 1e-9) / n
    return float(weighted_quantiles(ordered, weights, np.array([min(rank, 1.0)]))[0])


class _ScoreWindow:
    """The newest scores of one app, or of all."""

    __slots__ = ("levels", "offsets", "windows")

    def __init__(self) -> None:
        self.windows = tuple(RingBuffer(WINDOW_SCORES) for _ in CALIBRATED_LEVELS)
        self.levels = list(CALIBRATED_LEVELS)  # at which offsets are taken
        self.offsets = NO_OFFSETS

    def __len__(self) -> int:
        return len(self.windows[0])

    def add(self, scores: Sequence[float], *, censored: bool) -> None:
        if len(self) >= MIN_GLOBAL_SCORES and not censored:
            self._follow(scores)
        for window, score in zip(self.windows, scores, strict=True):
            window.add(score, censored=censored)

    def _follow(self, scores: Sequence[float]) -> None:
        """Raise a level after a length beyond its quantile, lower it after one within."""
        offsets = self.current_offsets()
        for number, nominal in enumerate(CALIBRATED_LEVELS):
            missed = scores[number] > offsets[number]
            level = self.levels[number] + LEVEL_STEP * (missed - (1 - nominal))
            low, high = nominal - MAX_LOWERED, 1 - (1 - nominal) / MAX_RAISED
            self.levels[number] = min(max(level, low), high)

    def current_offsets(self) -> Offsets:
        if self.windows[0].needs_refresh():
            self.offsets = tuple(
                conformal_offset(*window.values(), level)
                for window, level in zip(self.windows, self.levels, strict=True)
            )
        return self.offsets


class ConformalCalibration:
    """Rolling offsets of one predictor version."""

    def __init__(self, start: ConformityScores = NO_SCORES) -> None:
        self._all = _ScoreWindow()
        self._apps: OrderedDict[UUID, _ScoreWindow] = OrderedDict()
        for app, scores, censored in zip(start.apps, start.scores, start.censored, strict=True):
            self._learn(app, scores, censored=censored)

    def own(self, app: UUID) -> Calibration | None:
        """The calibration by this app's outcomes alone; None while they are too few."""
        app_scores = self._apps.get(app)
        if app_scores is None or len(app_scores) < MIN_APP_SCORES:
            return None
        return Calibration(app_scores.current_offsets(), len(app_scores))

    def of(self, app: UUID) -> Calibration:
        """The calibration of this app."""
        own = self.own(app)
        if own is not None:
            return own
        enough = len(self._all) >= MIN_GLOBAL_SCORES
        offsets = self._all.current_offsets() if enough else NO_OFFSETS
        return Calibration(offsets, len(self._all))

    def offsets(self, app: UUID) -> Offsets:
        """Offsets of the log quantiles at `CALIBRATED_LEVELS` for this app."""
        return self.of(app).offsets

    def learn(self, app: UUID, scored: Sequence[float], tokens: int, *, censored: bool) -> None:
        """Learn an outcome from its uncalibrated log quantiles at `CALIBRATED_LEVELS`."""
        self._learn(app, conformity_scores(scored, tokens), censored=censored)

    def forget(self, app: UUID) -> None:
        """Drop an app's own scores, after a change of its answers."""
        self._apps.pop(app, None)

    def _learn(self, app: UUID, scores: Sequence[float], *, censored: bool) -> None:
        self._all.add(scores, censored=censored)
        app_scores = self._apps.pop(app, None) or _ScoreWindow()
        app_scores.add(scores, censored=censored)
        self._apps[app] = app_scores
        if len(self._apps) > MAX_APPS:
            self._apps.popitem(last=False)


def conformity_scores(scored: Sequence[float], tokens: int) -> tuple[float, ...]:
    """Log length less each uncalibrated log quantile at `CALIBRATED_LEVELS`."""
    length = math.log(max(tokens, 1))
    return tuple(length - log_quantile for log_quantile in scored)


def initial_scores(
    apps: list[UUID], log_quantiles: Floats, tokens: Floats, censored: Bools
) -> ConformityScores:
    """Initial scores from n outcomes and their ln quantiles (n, len(LEVELS)), oldest first."""
    upper_rows = log_quantiles[:, -len(CALIBRATED_LEVELS) :].tolist()
    lengths = tokens.astype(int).tolist()
    return ConformityScores(
        apps=apps,
        scores=[
            conformity_scores(row, length) for row, length in zip(upper_rows, lengths, strict=True)
        ],
        censored=censored.tolist(),
    )


def calibrated_tokens(
    scored: Sequence[float], offsets: Offsets, max_tokens: int, least_spread: float = 0.0
) -> tuple[float, ...]:
    """Quantiles in tokens from ln quantiles at `LEVELS`: offset, ascending, in 1 … max_tokens.

    They are no closer together than those of a normal distribution with the `least_spread`. A
    quantile without an offset yields to the least that has one.
    """
    lower = len(scored) - len(offsets)
    calibrated = [log + by for log, by in zip(scored[lower:], offsets, strict=True)]
    shifted = np.array([*(min(log, calibrated[0]) for log in scored[:lower]), *calibrated])
    normal = shifted[MEDIAN] + least_spread * np.array(NORMAL)
    shifted[:MEDIAN] = np.minimum(shifted[:MEDIAN], normal[:MEDIAN])
    shifted[MEDIAN + 1 :] = np.maximum(shifted[MEDIAN + 1 :], normal[MEDIAN + 1 :])
    max_log = math.log(max(max_tokens, 1))
    rising = np.maximum.accumulate(np.clip(shifted, 0.0, max_log))
    return tuple(np.minimum(np.exp(rising), max(max_tokens, 1)).tolist())
