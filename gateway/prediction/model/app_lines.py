"""A straight line per app on log lengths, shrunk towards the pooled line while the app is young.

For transducers (translation, correction, restyling) the generation follows the input in
proportion, log y ≈ a + b·log x, with each app's own a and b; trees alone rank such apps worse.
"""

from collections.abc import Sequence
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from gateway.prediction.censoring import kaplan_meier
from gateway.prediction.model.artefact import AppLine
from gateway.quantiles import Bools, Floats

SHRINKAGE = 10.0  # rows' worth of trust in the pooled line
MIN_SPREAD = 0.05
IMPUTATIONS = 3


def fit_lines(
    apps: Sequence[UUID],
    log_uil: Floats,
    log_lengths: Floats,
    censored: Bools,
    weights: Floats | None = None,
) -> tuple[AppLine, dict[UUID, AppLine]]:
    """The pooled line and each app's, from n ≥ 1 rows, each counting by its weight.

    A censored length is replaced by what the residuals of its size tell to expect above it
    (`impute_censored`), and the lines are fitted again, as Buckley and James (1979) do.
    """
    weights = np.ones(len(log_uil)) if weights is None else weights
    rows_of = rows_by_app(apps)
    lengths = log_lengths
    for _ in range(IMPUTATIONS if censored.any() else 1):
        pooled = _pooled_line(log_uil, lengths, weights)
        lines = {
            app: _shrunk_line(log_uil[rows], lengths[rows], weights[rows], pooled)
            for app, rows in rows_of.items()
        }
        centre, spread = predict_lines(apps, log_uil, pooled, lines)
        expected = impute_censored((log_lengths - centre) / spread, censored, draws=1)[:, 0]
        lengths = np.where(censored, centre + spread * expected, log_lengths)
    return pooled, lines


def predict_lines(
    apps: Sequence[UUID], log_uil: Floats, pooled: AppLine, lines: dict[UUID, AppLine]
) -> tuple[Floats, Floats]:
    """Centre and spread of the log length for each of n requests, (n,) both."""
    theirs = [lines.get(app, pooled) for app in apps]
    intercept = np.array([line.intercept for line in theirs])
    slope = np.array([line.slope for line in theirs])
    return intercept + slope * log_uil, np.array([line.spread for line in theirs])


def impute_censored(residuals: Floats, censored: Bools, *, draws: int) -> Floats:
    """Each residual `draws` times, (n, draws): a censored one as values that may lie behind it.

    The values are evenly spaced quantiles of the natural residuals above it, under their
    Kaplan-Meier weights: Efron's redistribution to the right. With one draw it is their mean.
    """
    filled = np.repeat(residuals[:, None], draws, axis=1)
    if not censored.any():
        return filled
    ordered, weights = kaplan_meier(residuals, censored)
    cumulated = np.cumsum(weights)
    moment = np.cumsum(weights * ordered)
    steps = (np.arange(draws) + 0.5) / draws
    for row in np.flatnonzero(censored):
        first = int(np.searchsorted(ordered, residuals[row], side="right"))
        below = cumulated[first - 1] if first else 0.0
        mass = cumulated[-1] - below
        if first == len(ordered) or mass <= 0:
            continue  # nothing longer was ever seen: the bound itself
        if draws == 1:
            filled[row] = (moment[-1] - (moment[first - 1] if first else 0.0)) / mass
        else:
            filled[row] = ordered[
                np.minimum(np.searchsorted(cumulated, below + steps * mass), len(ordered) - 1)
            ]
    return filled


def rows_by_app(apps: Sequence[UUID]) -> dict[UUID, NDArray[np.intp]]:
    """The rows of each app, rising."""
    numbers = {app: number for number, app in enumerate(dict.fromkeys(apps))}
    number_of = np.array([numbers[app] for app in apps])
    rows = np.argsort(number_of, kind="stable")
    ends = np.cumsum(np.bincount(number_of))[:-1]
    return dict(zip(numbers, np.split(rows, ends), strict=True))


def _pooled_line(x: Floats, y: Floats, weights: Floats) -> AppLine:
    centred = x - np.average(x, weights=weights)
    scale = max(float(weights @ centred**2), 1.0)
    slope = float((weights * centred) @ (y - np.average(y, weights=weights))) / scale
    intercept = float(np.average(y - slope * x, weights=weights))
    variance = float(np.average((y - intercept - slope * x) ** 2, weights=weights))
    return AppLine(intercept, slope, max(variance**0.5, MIN_SPREAD), len(y))


def _shrunk_line(x: Floats, y: Floats, weights: Floats, pooled: AppLine) -> AppLine:
    """Ridge around the pooled line: its residuals are fitted with slope and intercept held back."""
    residual = y - (pooled.intercept + pooled.slope * x)
    total = float(weights.sum())
    own = total / (total + SHRINKAGE)
    middle, shift = (float(np.average(each, weights=weights)) for each in (x, residual))
    centred = x - middle
    scale = float(weights @ centred**2) + SHRINKAGE
    slope = float((weights * centred) @ (residual - shift)) / scale
    intercept = pooled.intercept + own * shift - slope * middle
    left = y - (intercept + (pooled.slope + slope) * x)
    missed = float(np.average(left**2, weights=weights))
    variance = own * missed + (1 - own) * pooled.spread**2
    return AppLine(intercept, pooled.slope + slope, max(variance**0.5, MIN_SPREAD), len(y))
