"""Quality measures of a forecast against actual lengths."""

from typing import Final

import numpy as np
from msgspec import field
from msgspec.structs import asdict
from numpy.typing import NDArray

from gateway.evaluation.forecast import Forecast
from gateway.prediction.training.scorecard import Scorecard, covered, evaluate, pinball_losses, rms
from gateway.quantiles import LEVELS, P90, Floats

POOLED: Final = "pooled"
Z: Final = 1.959964  # standard normal quantile of a 95 % interval


class DetailedScorecard(Scorecard, frozen=True, kw_only=True):
    """The scorecard of n = `rows` requests with additional measures.

    `token_rmse` is the RMSE of the mean, `log_rmse_mean` that of the mean of log(1 + tokens).
    `pinball_levels` are pinball losses on log tokens, one per level. `coverage_low` and
    `coverage_high` bound the 95 % interval of `coverage` (Wilson 1927). `over_median` is the median
    ratio of the 0.9 quantile to the length, `over_total` the ratio of their sums. `held_over_used`
    is the latter after all quantiles are scaled by one factor, such that they cover 90 %.
    """

    log_rmse_median: float = field(name="log_rmse_median")
    over_mean: float = field(name="over_mean")
    token_rmse: float
    log_rmse_mean: float
    pinball_levels: list[float]
    coverage_low: float
    coverage_high: float
    over_median: float
    over_total: float
    held_over_used: float


def score(tokens: Floats, forecast: Forecast) -> DetailedScorecard:
    """All measures of n ≥ 1 requests; `tokens` (n,) at least 1."""
    p90 = forecast.p90
    low, high = wilson(int(covered(tokens, p90).sum()), len(tokens))
    return DetailedScorecard(
        **asdict(evaluate(tokens, np.exp(forecast.log_quantiles))),
        token_rmse=rms(tokens - forecast.mean),
        log_rmse_mean=rms(log_errors(tokens, forecast)),
        pinball_levels=pinball_losses(np.log(tokens), forecast.log_quantiles).mean(axis=0).tolist(),
        coverage_low=low,
        coverage_high=high,
        over_median=float(np.median(p90 / tokens)),
        over_total=float(p90.sum() / tokens.sum()),
        held_over_used=held_over_used(tokens, p90),
    )


def score_apps(
    names: NDArray[np.str_], tokens: Floats, forecast: Forecast
) -> dict[str, DetailedScorecard]:
    """The scorecard of each app by name, and last that of all requests as POOLED."""
    cards = {
        str(name): score(tokens[names == name], forecast.rows(names == name))
        for name in np.unique(names)
    }
    return {**cards, POOLED: score(tokens, forecast)}


def log_errors(tokens: Floats, forecast: Forecast) -> Floats:
    """log(1 + tokens) minus its forecast mean, (n,)."""
    return np.log1p(tokens) - forecast.location


def held_over_used(tokens: Floats, held: Floats) -> float:
    """Tokens held over tokens used, of n ≥ 1 requests, if `held` is scaled to cover 90 %.

    Predictors whose quantiles cover more or less hold tokens alike only at equal coverage.
    """
    factor = np.quantile(tokens / held, LEVELS[P90], method="inverted_cdf")
    return float(factor * held.sum() / tokens.sum())


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion of n ≥ 1 (Wilson 1927)."""
    share, weight = hits / n, Z**2 / n
    centre = (share + weight / 2) / (1 + weight)
    half = Z / (1 + weight) * (share * (1 - share) / n + weight / (4 * n)) ** 0.5
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)
