"""Conformal calibration: offsets that give the upper quantiles their nominal coverage.

One-sided split-conformal prediction (Romano, Patterson and Candès 2019) on log lengths: the
conformity score of an outcome is its log length less the predicted log quantile; the offset at
level p is the ⌈(n + 1)p⌉-th smallest of the last n scores. It is signed: a quantile that covers
too much is lowered. An app with few outcomes uses the offset over all apps.
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
from gateway.quantiles import LEVELS, Bools, Floats

CALIBRATED_LEVELS: Final = LEVELS[-2:]  # nominal coverage of the calibrated quantiles
WINDOW_SCORES: Final = 500
MIN_APP_SCORES: Final = 50
MIN_GLOBAL_SCORES: Final = 20
MAX_APPS: Final = 10_000

Offsets = tuple[float, ...]
NO_OFFSETS: Final[Offsets] = (0.0,) * len(CALIBRATED_LEVELS)


class ConformityScores(Struct, frozen=True):
    """Initial scores, oldest first: an app and a score for each of `CALIBRATED_LEVELS`."""

    apps: list[UUID]
    scores: list[tuple[float, ...]]
    censored: list[bool]


NO_SCORES: Final = ConformityScores([], [], [])


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

    __slots__ = ("offsets", "windows")

    def __init__(self) -> None:
        self.windows = tuple(RingBuffer(WINDOW_SCORES) for _ in CALIBRATED_LEVELS)
        self.offsets = NO_OFFSETS

    def __len__(self) -> int:
        return len(self.windows[0])

    def add(self, scores: Sequence[float], *, censored: bool) -> None:
        for window, score in zip(self.windows, scores, strict=True):
            window.add(score, censored=censored)

    def current_offsets(self) -> Offsets:
        if self.windows[0].needs_refresh():
            self.offsets = tuple(
                conformal_offset(*window.values(), level)
                for window, level in zip(self.windows, CALIBRATED_LEVELS, strict=True)
            )
        return self.offsets


class ConformalCalibration:
    """Rolling offsets of one predictor version."""

    def __init__(self, start: ConformityScores = NO_SCORES) -> None:
        self._all = _ScoreWindow()
        self._apps: OrderedDict[UUID, _ScoreWindow] = OrderedDict()
        for app, scores, censored in zip(start.apps, start.scores, start.censored, strict=True):
            self._learn(app, scores, censored=censored)

    def offsets(self, app: UUID) -> Offsets:
        """Offsets of the log quantiles at `CALIBRATED_LEVELS` for this app."""
        app_scores = self._apps.get(app)
        if app_scores is not None and len(app_scores) >= MIN_APP_SCORES:
            return app_scores.current_offsets()
        return self._all.current_offsets() if len(self._all) >= MIN_GLOBAL_SCORES else NO_OFFSETS

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
    scored: Sequence[float], offsets: Offsets, max_tokens: int
) -> tuple[float, ...]:
    """Quantiles in tokens from ln quantiles at `LEVELS`: offset, ascending, in 1 … max_tokens."""
    lower = len(scored) - len(offsets)
    shifted = [
        *scored[:lower],
        *(log + by for log, by in zip(scored[lower:], offsets, strict=True)),
    ]
    max_log = math.log(max(max_tokens, 1))
    rising = np.maximum.accumulate(np.clip(shifted, 0.0, max_log))
    return tuple(np.minimum(np.exp(rising), max(max_tokens, 1)).tolist())
