"""Whether one side's errors are smaller than another's on the same requests."""

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
    """Our RMSE less theirs, and the 95 % interval: below 0 we are ahead."""

    ours: float
    theirs: float
    difference: float
    low: float
    high: float


def compare(ours: Floats, theirs: Floats) -> PairedDifference:
    """Paired errors of n ≥ 1 requests, (n,) each; percentile bootstrap over requests (Efron 1979).

    The same seed everywhere: the same errors give the same interval.
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
    """The comparison on each app, and last on all as POOLED."""
    each = {
        str(name): compare(ours[names == name], theirs[names == name]) for name in np.unique(names)
    }
    return {**each, POOLED: compare(ours, theirs)}
