"""The measures of a forecast against the lengths that came. Pure functions."""

from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from gateway.evaluation.forecast import Forecast
from gateway.prediction.evaluation import kendall_tau, pinballs
from gateway.quantiles import Floats

POOLED: Final = "pooled"
Z: Final = 1.959964  # of a 95 % interval


class Scores(Struct, frozen=True):
    """Of n = `rows` requests.

    `mae` in tokens and `tau` (Kendall's τ-b) are the median's; `token_rmse` is that of the mean,
    `log_rmse` that of the mean of log(1 + tokens). `pinball` is the mean over `pinball_levels`,
    one at each of `LEVELS`, on log tokens. `coverage` is the share of lengths within the 0.9
    quantile, with its 95 % interval (Wilson 1927). `over_*` are that quantile over the length:
    mean and median of the ratios, and the ratio of the sums.
    """

    rows: int
    mae: float
    token_rmse: float
    log_rmse: float
    tau: float
    pinball: float
    pinball_levels: list[float]
    coverage: float
    coverage_low: float
    coverage_high: float
    over_mean: float
    over_median: float
    over_total: float


def score(tokens: Floats, forecast: Forecast) -> Scores:
    """Every measure of n ≥ 1 requests at once; `tokens` (n,) at least 1."""
    median, p90 = forecast.median, forecast.p90
    losses = pinballs(np.log(tokens), forecast.log_quantiles).mean(axis=0)
    within = tokens <= p90 * (1 + 1e-9)  # the log and back may lose a bit
    low, high = wilson(int(within.sum()), len(tokens))
    return Scores(
        rows=len(tokens),
        mae=float(np.abs(tokens - median).mean()),
        token_rmse=rms(tokens - forecast.mean),
        log_rmse=rms(log_errors(tokens, forecast)),
        tau=kendall_tau(tokens, median),
        pinball=float(losses.mean()),
        pinball_levels=losses.tolist(),
        coverage=float(within.mean()),
        coverage_low=low,
        coverage_high=high,
        over_mean=float((p90 / tokens).mean()),
        over_median=float(np.median(p90 / tokens)),
        over_total=float(p90.sum() / tokens.sum()),
    )


def score_apps(names: NDArray[np.str_], tokens: Floats, forecast: Forecast) -> dict[str, Scores]:
    """The scores of each app by name, and last those of all as POOLED."""
    cards = {
        str(name): score(tokens[names == name], forecast.rows(names == name))
        for name in np.unique(names)
    }
    return {**cards, POOLED: score(tokens, forecast)}


def log_errors(tokens: Floats, forecast: Forecast) -> Floats:
    """log(1 + tokens) less its forecast mean, (n,)."""
    return np.log1p(tokens) - forecast.location


def rms(errors: Floats) -> float:
    """The root of the mean square."""
    return float(np.sqrt((errors**2).mean()))


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of n ≥ 1 (Wilson 1927)."""
    share, weight = hits / n, Z**2 / n
    centre = (share + weight / 2) / (1 + weight)
    half = Z / (1 + weight) * (share * (1 - share) / n + weight / (4 * n)) ** 0.5
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)
