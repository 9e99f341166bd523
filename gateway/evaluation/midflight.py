"""Errors of the predicted remaining length during generation."""

from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from gateway.evaluation.forecast import Forecast
from gateway.evaluation.scoring import POOLED
from gateway.quantiles import Floats
from gateway.scheduling.admission.length_distribution import LengthDistributions

SHARES: Final = (0.25, 0.5)  # of the actual length


class MidflightErrors(Struct, frozen=True):
    """Mean absolute errors of the remaining length, in tokens, after `share` of `rows` answers.

    `conditional_mae`: of the median given that the answer has not ended yet. `static_mae`: of the
    initial median minus the tokens generated, at least 1.
    """

    app: str
    share: float
    rows: int
    conditional_mae: float
    static_mae: float


def midflight(
    names: NDArray[np.str_], tokens: Floats, limits: Floats, forecast: Forecast
) -> list[MidflightErrors]:
    """Per share: each app, then all as POOLED; without answers that have no token by then.

    Answers have at most `limits` tokens; all are (n,).
    """
    errors_found = []
    for share in SHARES:
        generated = np.floor(share * tokens)
        conditional, static = _errors(tokens, limits, generated, forecast)
        for app in (*map(str, np.unique(names)), POOLED):
            rows = (generated >= 1) & ((names == app) | (app == POOLED))
            if rows.any():
                errors = (float(each[rows].mean()) for each in (conditional, static))
                errors_found.append(MidflightErrors(app, share, int(rows.sum()), *errors))
    return errors_found


def _errors(
    tokens: Floats, limits: Floats, generated: Floats, forecast: Forecast
) -> tuple[Floats, Floats]:
    """Absolute errors of the conditional and of the static estimate, (n,) each."""
    remaining = tokens - generated
    lengths = LengthDistributions.of_quantiles(np.exp(forecast.log_quantiles), limits, generated)
    static = np.maximum(forecast.median - generated, 1.0)
    return np.abs(lengths.remaining_quantile(0.5) - remaining), np.abs(static - remaining)
