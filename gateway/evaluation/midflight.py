"""How well the rest of an answer is foretold when part of it has been generated."""

from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from gateway.evaluation.arrivals import MAX_TOKENS
from gateway.evaluation.forecast import Forecast
from gateway.evaluation.scoring import POOLED
from gateway.quantiles import Floats
from gateway.scheduling.admission.length_distribution import LengthDistributions

SHARES: Final = (0.25, 0.5)  # of the true generation


class MidflightErrors(Struct, frozen=True):
    """Errors of the remaining length, in tokens, after `share` of each of `rows` answers.

    `conditional_mae`: of the median of the length given that so many tokens did not end it;
    `static_mae`: of the first median less the tokens generated, at least one.
    """

    app: str
    share: float
    rows: int
    conditional_mae: float
    static_mae: float


def midflight(names: NDArray[np.str_], tokens: Floats, forecast: Forecast) -> list[MidflightErrors]:
    """For each share, every app and then all as POOLED; answers with no token by then left out."""
    found = []
    for share in SHARES:
        generated = np.floor(share * tokens)
        conditional, static = _errors(tokens, generated, forecast)
        for app in (*map(str, np.unique(names)), POOLED):
            rows = (generated >= 1) & ((names == app) | (app == POOLED))
            if rows.any():
                errors = (float(each[rows].mean()) for each in (conditional, static))
                found.append(MidflightErrors(app, share, int(rows.sum()), *errors))
    return found


def _errors(tokens: Floats, generated: Floats, forecast: Forecast) -> tuple[Floats, Floats]:
    """Absolute errors of the conditional and of the static estimate, (n,) each."""
    remaining = tokens - generated
    limits = np.full(len(tokens), float(MAX_TOKENS))
    lengths = LengthDistributions(np.exp(forecast.log_quantiles), limits, generated)
    static = np.maximum(forecast.median - generated, 1.0)
    return np.abs(lengths.remaining_quantile(0.5) - remaining), np.abs(static - remaining)
