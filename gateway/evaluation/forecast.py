"""The forecast of a predictor for n requests, and quantiles for point forecasts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.prediction.expectation import expected_log, expected_tokens
from gateway.prediction.model.heads import from_log1p
from gateway.quantiles import LEVELS, MEDIAN, P90, Bools, Floats

MIN_APP_RESIDUALS: Final = 50  # with fewer, those of all apps are used


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """For n lengths: ln quantiles (n, len(LEVELS)), ascending, and two means, (n,).

    `location` is the mean of log(1 + tokens), `mean` that of tokens.
    """

    log_quantiles: Floats
    location: Floats
    mean: Floats

    @classmethod
    def of(cls, log_quantiles: Floats) -> "Forecast":
        """A forecast with the means estimated from its quantiles."""
        quantiles = np.exp(log_quantiles)
        return cls(
            log_quantiles=log_quantiles,
            location=expected_log(quantiles),
            mean=expected_tokens(quantiles),
        )

    @classmethod
    def concatenate(cls, parts: "Sequence[Forecast]") -> "Forecast":
        """The forecasts of n ≥ 1 parts, one after the other."""
        return cls(
            log_quantiles=np.concatenate([part.log_quantiles for part in parts]),
            location=np.concatenate([part.location for part in parts]),
            mean=np.concatenate([part.mean for part in parts]),
        )

    @property
    def median(self) -> Floats:
        """The median in tokens, (n,)."""
        return np.asarray(np.exp(self.log_quantiles[:, MEDIAN]))

    @property
    def p90(self) -> Floats:
        """The 0.9 quantile in tokens, (n,)."""
        return np.asarray(np.exp(self.log_quantiles[:, P90]))

    def capped(self, limits: Floats) -> "Forecast":
        """The forecast of what is generated, at most `limits` (n,)."""
        return Forecast(
            log_quantiles=np.minimum(self.log_quantiles, np.log(limits)[:, None]),
            location=np.minimum(self.location, np.log1p(limits)),
            mean=np.minimum(self.mean, limits),
        )

    def rows(self, which: Bools) -> "Forecast":
        """The forecast of a subset of the requests."""
        return Forecast(
            log_quantiles=self.log_quantiles[which],
            location=self.location[which],
            mean=self.mean[which],
        )


def residual_quantiles(
    location: Floats, names: NDArray[np.str_], residuals: Floats, train: NDArray[np.str_]
) -> Floats:
    """Log quantiles (n, len(LEVELS)) of point forecasts of log(1 + tokens), (n,).

    The quantiles of an app's training residuals are added to the point; those of all k residuals
    for an app with fewer than MIN_APP_RESIDUALS. `train` (k,) are the apps of the residuals.
    """
    spread = np.tile(np.quantile(residuals, LEVELS), (len(names), 1))
    for name in np.unique(names):
        own = residuals[train == name]
        if len(own) >= MIN_APP_RESIDUALS:
            spread[names == name] = np.quantile(own, LEVELS)
    return from_log1p(location[:, None] + spread)
