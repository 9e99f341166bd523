"""What a contender says of n requests, and how a point forecast comes by its quantiles."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.prediction.expectation import expected_log, expected_tokens
from gateway.prediction.model.length_model import from_log1p
from gateway.quantiles import LEVELS, MEDIAN, P90, Bools, Floats

MIN_APP_RESIDUALS: Final = 50  # residuals of an app; below, those of all apps stand in


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Of n lengths: natural-log quantiles (n, len(LEVELS)), rising, and two means, (n,).

    `location` is the mean of log(1 + tokens), `mean` that of the tokens.
    """

    log_quantiles: Floats
    location: Floats
    mean: Floats

    @classmethod
    def of(cls, log_quantiles: Floats) -> "Forecast":
        """A forecast whose means are those of its quantiles."""
        quantiles = np.exp(log_quantiles)
        return cls(
            log_quantiles=log_quantiles,
            location=expected_log(quantiles),
            mean=expected_tokens(quantiles),
        )

    @property
    def median(self) -> Floats:
        """In tokens, (n,)."""
        return np.asarray(np.exp(self.log_quantiles[:, MEDIAN]))

    @property
    def p90(self) -> Floats:
        """The 0.9 quantile in tokens, (n,)."""
        return np.asarray(np.exp(self.log_quantiles[:, P90]))

    def rows(self, which: Bools) -> "Forecast":
        """The part of some requests."""
        return Forecast(
            log_quantiles=self.log_quantiles[which],
            location=self.location[which],
            mean=self.mean[which],
        )


def residual_quantiles(
    location: Floats, names: NDArray[np.str_], residuals: Floats, learned: NDArray[np.str_]
) -> Floats:
    """Log quantiles (n, len(LEVELS)) of point forecasts of log(1 + tokens), (n,).

    Each app's are as far from the point as its learned residuals (k,) are spread; those of all
    apps for one with fewer than MIN_APP_RESIDUALS.
    """
    spread = np.tile(np.quantile(residuals, LEVELS), (len(names), 1))
    for name in np.unique(names):
        own = residuals[learned == name]
        if len(own) >= MIN_APP_RESIDUALS:
            spread[names == name] = np.quantile(own, LEVELS)
    return from_log1p(location[:, None] + spread)
