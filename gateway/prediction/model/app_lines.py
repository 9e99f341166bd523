"""A regression line per app on log lengths, shrunk towards the pooled line of all apps.

For transducers (translation, correction, restyling) the output length is proportional to the input
length, log y ≈ a + b·log x, with a and b per app; trees alone rank such apps worse.
"""

from collections.abc import Sequence
from uuid import UUID

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from gateway.prediction.censoring import kaplan_meier, weighted_quantiles
from gateway.prediction.model.artefact import AppLine
from gateway.quantiles import LEVELS, Bools, Floats

SHRINKAGE = 10.0  # weight of the pooled line, in rows
LEVELS_SHRINKAGE = 50.0  # weight of the pooled residuals' quantiles, in rows
MAX_LEVERAGE = 0.9  # of a row on its own prediction
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
    Spreads and quantiles are those of leave-one-out residuals, r / (1 - leverage): a line that
    passes close to the few rows it was fitted on would seem surer than it is.
    """
    weights = np.ones(len(log_uil)) if weights is None else weights
    rows_of = rows_by_app(apps)
    kept = 1 - leverages(log_uil, rows_of, weights)
    lengths = log_lengths
    for _ in range(IMPUTATIONS if censored.any() else 1):
        pooled = _pooled_line(log_uil, lengths, weights)
        lines = {
            app: _shrunk_line(log_uil[rows], lengths[rows], weights[rows], kept[rows], pooled)
            for app, rows in rows_of.items()
        }
        centre, spread = predict_lines(apps, log_uil, pooled, lines)
        expected = impute_censored((log_lengths - centre) / spread, censored, draws=1)[:, 0]
        lengths = np.where(censored, centre + spread * expected, log_lengths)
    residuals = (log_lengths - centre) / kept / spread
    return _with_levels(pooled, lines, rows_of, residuals, censored)


def leverages(log_uil: Floats, rows_of: dict[UUID, NDArray[np.intp]], weights: Floats) -> Floats:
    """By how much each row, with weight 1, moves its app's line at its own place, (n,)."""
    found = np.empty(len(log_uil))
    for rows in rows_of.values():
        own = weights[rows]
        deviations = log_uil[rows] - np.average(log_uil[rows], weights=own)
        scale = float(own @ deviations**2) + SHRINKAGE
        found[rows] = 1 / (own.sum() + SHRINKAGE) + deviations**2 / scale
    return np.minimum(found, MAX_LEVERAGE)


def predict_lines(
    apps: Sequence[UUID], log_uil: Floats, pooled: AppLine, lines: dict[UUID, AppLine]
) -> tuple[Floats, Floats]:
    """Predicted centre and spread of the log length of n requests, (n,) both."""
    line_of_row = [lines.get(app, pooled) for app in apps]
    intercept = np.array([line.intercept for line in line_of_row])
    slope = np.array([line.slope for line in line_of_row])
    return intercept + slope * log_uil, np.array([line.spread for line in line_of_row])


def line_levels(apps: Sequence[UUID], pooled: AppLine, lines: dict[UUID, AppLine]) -> Floats:
    """Quantiles at `LEVELS` of n requests around their centre, in spreads, (n, len(LEVELS))."""
    return np.array([lines.get(app, pooled).levels for app in apps])


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


def _shrunk_line(x: Floats, y: Floats, weights: Floats, kept: Floats, pooled: AppLine) -> AppLine:
    """Ridge regression of the residuals of the pooled line; `kept` is 1 - leverage, (n,)."""
    residual = y - (pooled.intercept + pooled.slope * x)
    total = float(weights.sum())
    own_weight = total / (total + SHRINKAGE)
    mean_x, mean_residual = (float(np.average(each, weights=weights)) for each in (x, residual))
    deviations = x - mean_x
    scale = float(weights @ deviations**2) + SHRINKAGE
    slope = float((weights * deviations) @ (residual - mean_residual)) / scale
    intercept = pooled.intercept + own_weight * mean_residual - slope * mean_x
    remaining = (y - (intercept + (pooled.slope + slope) * x)) / kept
    mean_square = float(np.average(remaining**2, weights=weights))
    variance = own_weight * mean_square + (1 - own_weight) * pooled.spread**2
    return AppLine(intercept, pooled.slope + slope, max(variance**0.5, MIN_SPREAD), len(y))


def _with_levels(
    pooled: AppLine,
    lines: dict[UUID, AppLine],
    rows_of: dict[UUID, NDArray[np.intp]],
    residuals: Floats,
    censored: Bools,
) -> tuple[AppLine, dict[UUID, AppLine]]:
    """The lines with the quantiles of their residuals (n,), in spreads; apps' drawn to pooled."""

    def quantiles(rows: NDArray[np.intp] | slice) -> Floats:
        return weighted_quantiles(*kaplan_meier(residuals[rows], censored[rows]), np.array(LEVELS))

    every = quantiles(slice(None))
    found = {}
    for app, rows in rows_of.items():
        own = len(rows) / (len(rows) + LEVELS_SHRINKAGE)
        levels = own * quantiles(rows) + (1 - own) * every
        found[app] = replace(lines[app], levels=levels.tolist())
    return replace(pooled, levels=every.tolist()), found
