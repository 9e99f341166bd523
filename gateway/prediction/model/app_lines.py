"""A regression line per app on log lengths, shrunk towards the pooled line of all apps.

For transducers (translation, correction, restyling) the output length is proportional to the input
length, log y ≈ a + b·log x, with a and b per app; trees alone rank such apps worse.
"""

from collections.abc import Sequence
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from gateway.prediction.censoring import kaplan_meier
from gateway.prediction.model.artefact import AppLine
from gateway.quantiles import Bools, Floats

SHRINKAGE = 10.0  # weight of the pooled line, in rows
MIN_SPREAD = 0.05
IMPUTATIONS = 3


def fit_lines(
    apps: Sequence[UUID],
    log_uil: Floats,
    log_lengths: Floats,
    censored: Bools,
    weights: Floats | None = None,
) -> tuple[AppLine, dict[UUID, AppLine]]:
    """The pooled line and each app's, from n ≥ 1 weighted rows.

    A censored length is replaced by its expectation under the residuals above it
    (`impute_censored`) and the lines are refitted, IMPUTATIONS times (Buckley and James 1979).
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
    """Predicted centre and spread of the log length of n requests, (n,) both."""
    line_of_row = [lines.get(app, pooled) for app in apps]
    intercept = np.array([line.intercept for line in line_of_row])
    slope = np.array([line.slope for line in line_of_row])
    return intercept + slope * log_uil, np.array([line.spread for line in line_of_row])


def impute_censored(residuals: Floats, censored: Bools, *, draws: int) -> Floats:
    """Each residual `draws` times, (n, draws); censored ones replaced by imputed values.

    These are evenly spaced quantiles of the natural residuals above the censored one, under their
    Kaplan-Meier weights (Efron's redistribution to the right); with one draw, their mean.
    """
    imputed = np.repeat(residuals[:, None], draws, axis=1)
    if not censored.any():
        return imputed
    ordered, weights = kaplan_meier(residuals, censored)
    cumulative = np.cumsum(weights)
    cumulative_moment = np.cumsum(weights * ordered)
    steps = (np.arange(draws) + 0.5) / draws
    for row in np.flatnonzero(censored):
        first = int(np.searchsorted(ordered, residuals[row], side="right"))
        below = cumulative[first - 1] if first else 0.0
        mass = cumulative[-1] - below
        if first == len(ordered) or mass <= 0:
            continue  # no natural value above: the bound itself
        if draws == 1:
            imputed[row] = (
                cumulative_moment[-1] - (cumulative_moment[first - 1] if first else 0.0)
            ) / mass
        else:
            imputed[row] = ordered[
                np.minimum(np.searchsorted(cumulative, below + steps * mass), len(ordered) - 1)
            ]
    return imputed


def rows_by_app(apps: Sequence[UUID]) -> dict[UUID, NDArray[np.intp]]:
    """The row indices of each app, ascending."""
    numbers = {app: number for number, app in enumerate(dict.fromkeys(apps))}
    number_of = np.array([numbers[app] for app in apps])
    rows = np.argsort(number_of, kind="stable")
    ends = np.cumsum(np.bincount(number_of))[:-1]
    return dict(zip(numbers, np.split(rows, ends), strict=True))


def _pooled_line(x: Floats, y: Floats, weights: Floats) -> AppLine:
    deviations = x - np.average(x, weights=weights)
    scale = max(float(weights @ deviations**2), 1.0)
    slope = float((weights * deviations) @ (y - np.average(y, weights=weights))) / scale
    intercept = float(np.average(y - slope * x, weights=weights))
    variance = float(np.average((y - intercept - slope * x) ** 2, weights=weights))
    return AppLine(intercept, slope, max(variance**0.5, MIN_SPREAD), len(y))


def _shrunk_line(x: Floats, y: Floats, weights: Floats, pooled: AppLine) -> AppLine:
    """Ridge regression of the residuals of the pooled line."""
    residual = y - (pooled.intercept + pooled.slope * x)
    total = float(weights.sum())
    own_weight = total / (total + SHRINKAGE)
    mean_x, mean_residual = (float(np.average(each, weights=weights)) for each in (x, residual))
    deviations = x - mean_x
    scale = float(weights @ deviations**2) + SHRINKAGE
    slope = float((weights * deviations) @ (residual - mean_residual)) / scale
    intercept = pooled.intercept + own_weight * mean_residual - slope * mean_x
    remaining = y - (intercept + (pooled.slope + slope) * x)
    mean_square = float(np.average(remaining**2, weights=weights))
    variance = own_weight * mean_square + (1 - own_weight) * pooled.spread**2
    return AppLine(intercept, pooled.slope + slope, max(variance**0.5, MIN_SPREAD), len(y))
