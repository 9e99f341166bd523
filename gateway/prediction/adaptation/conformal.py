"""How far the upper quantiles must move so that they cover what they promise.

One-sided split-conformal prediction (Romano, Patterson and Candès 2019) on log lengths: the score
of an outcome is its log length less the log quantile the model gave; the offset at level p
is the ⌈(n + 1)p⌉-th smallest of the last n scores. It is signed: a quantile that covers too
much is lowered. An app with few outcomes takes the offset over all apps.
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

CALIBRATED_LEVELS: Final = LEVELS[-2:]  # what each calibrated quantile promises to cover
WINDOW_SCORES: Final = 500
MIN_APP_SCORES: Final = 50
MIN_GLOBAL_SCORES: Final = 20
MAX_APPS: Final = 10_000

Offsets = tuple[float, ...]
NO_OFFSETS: Final[Offsets] = (0.0,) * len(CALIBRATED_LEVELS)


class ConformityScores(Struct, frozen=True):
    """Scores to begin with, oldest first: for each outcome its app and one score per `CALIBRATED_LEVELS`."""

    apps: list[UUID]
    scores: list[tuple[float, ...]]
    censored: list[bool]


NO_SCORES: Final = ConformityScores([], [], [])


def conformal_offset(scores: Floats, censored: Bools, level: float) -> float:
    """What to add to a log quantile at `level` so that it covers; of n ≥ 1 scores.

    A censored score is a lower bound. The largest score where n is too small for the level.
    """
    ordered, weights = kaplan_meier(scores, censored)
    n = len(scores)
    rank = math.ceil((n + 1) * level - 1e-9) / n
    return float(weighted_quantiles(ordered, weights, np.array([min(rank, 1.0)]))[0])


class _ScoreWindow:
    """The last scores of one app, or of all."""

    __slots__ = ("offsets", "windows")

    def __init__(self) -> None:
        self.windows = tuple(RingBuffer(WINDOW_SCORES) for _ in CALIBRATED_LEVELS)
        self.offsets = NO_OFFSETS

    def __len__(self) -> int:
        return len(self.windows[0])

    def add(self, scores: Sequence[float], *, censored: bool) -> None:
        for window, score in zip(self.windows, scores, strict=True):
            window.add(score, censored=censored)

    def renewed(self) -> Offsets:
        if self.windows[0].stale():
            self.offsets = tuple(
                conformal_offset(*window.values(), level)
                for window, level in zip(self.windows, CALIBRATED_LEVELS, strict=True)
            )
        return self.offsets


class ConformalCalibration:
    """Rolling offsets of one version of the predictor."""

    def __init__(self, start: ConformityScores = NO_SCORES) -> None:
        self._all = _ScoreWindow()
        self._apps: OrderedDict[UUID, _ScoreWindow] = OrderedDict()
        for app, scores, censored in zip(start.apps, start.scores, start.censored, strict=True):
            self._learn(app, scores, censored=censored)

    def offsets(self, app: UUID) -> Offsets:
        """What to add to the log quantiles at `CALIBRATED_LEVELS` for a request of this app."""
        own = self._apps.get(app)
        if own is not None and len(own) >= MIN_APP_SCORES:
            return own.renewed()
        return self._all.renewed() if len(self._all) >= MIN_GLOBAL_SCORES else NO_OFFSETS

    def learn(self, app: UUID, scored: Sequence[float], tokens: int, *, censored: bool) -> None:
        """Take in an outcome: the uncalibrated log quantiles at `CALIBRATED_LEVELS`, and the length."""
        self._learn(app, conformity_scores(scored, tokens), censored=censored)

    def forget(self, app: UUID) -> None:
        """Drop an app's own scores: its answers have become others."""
        self._apps.pop(app, None)

    def _learn(self, app: UUID, scores: Sequence[float], *, censored: bool) -> None:
        self._all.add(scores, censored=censored)
        own = self._apps.pop(app, None) or _ScoreWindow()
        own.add(scores, censored=censored)
        self._apps[app] = own
        if len(self._apps) > MAX_APPS:
            self._apps.popitem(last=False)


def conformity_scores(scored: Sequence[float], tokens: int) -> tuple[float, ...]:
    """By how much the log length exceeds each uncalibrated log quantile at `CALIBRATED_LEVELS`."""
    length = math.log(max(tokens, 1))
    return tuple(length - upper for upper in scored)


def initial_scores(
    apps: list[UUID], log_quantiles: Floats, tokens: Floats, censored: Bools
) -> ConformityScores:
    """Scores to begin with, of n outcomes that a model told (n, len(LEVELS)) of, oldest first."""
    upper = log_quantiles[:, -len(CALIBRATED_LEVELS) :].tolist()
    lengths = tokens.astype(int).tolist()
    return ConformityScores(
        apps=apps,
        scores=[conformity_scores(row, length) for row, length in zip(upper, lengths, strict=True)],
        censored=censored.tolist(),
    )


def calibrated_tokens(
    scored: Sequence[float], offsets: Offsets, max_tokens: int
) -> tuple[float, ...]:
    """Quantiles in tokens from log quantiles at `LEVELS`: moved, rising, in 1 … max_tokens."""
    lower = len(scored) - len(offsets)
    moved = [
        *scored[:lower],
        *(log + by for log, by in zip(scored[lower:], offsets, strict=True)),
    ]
    most = math.log(max(max_tokens, 1))
    rising = np.maximum.accumulate(np.clip(moved, 0.0, most))
    return tuple(np.minimum(np.exp(rising), max(max_tokens, 1)).tolist())
