"""Paired bootstrap comparison of two predictors' errors on the same requests."""

from typing import Final

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from gateway.evaluation.scoring import POOLED
from gateway.prediction.training.scorecard import rms
from gateway.quantiles import Floats

RESAMPLES: Final = 2_000
SEED: Final = 1


class PairedDifference(Struct, frozen=True):
    """`ours` minus `theirs`, both RMSE, with its 95 % interval: negative if ours is smaller."""

    ours: float
    theirs: float
    difference: float
    low: float
    high: float


def compare(ours: Floats, theirs: Floats) -> PairedDifference:
    """Compare paired errors of n ≥ 1 requests, (n,) each, by percentile bootstrap (Efron 1979).

    The seed is fixed: equal errors give equal intervals.
    """
    rng = np.random.default_rng(SEED)
    squares = np.stack((ours**2, theirs**2), axis=1)
    n = len(squares)
    differences = np.empty(RESAMPLES)
    for draw in range(RESAMPLES):
        a, b = np.sqrt(squares[rng.integers(0, n, n)].mean(axis=0))
        differences[draw] = a - b
    low, high = np.quantile(differences, [0.025, 0.975]).tolist()
    return PairedDifference(rms(ours), rms(theirs), rms(ours) - rms(theirs), low, high)


def compare_apps(
    names: NDArray[np.str_], ours: Floats, theirs: Floats
) -> dict[str, PairedDifference]:
    """The comparison for each app, and last for all requests as POOLED."""
    each = {
        str(name): compare(ours[names == name], theirs[names == name]) for name in np.unique(names)
    }
    return {**each, POOLED: compare(ours, theirs)}
