"""Quality measures of predicted quantiles against actual lengths.

Pure functions of lengths (n,) and quantiles in tokens (n, len(LEVELS)). NaN where n = 0.
"""

from math import sqrt
from typing import Final

import numpy as np
from msgspec import Struct, field

from gateway.quantiles import LEVELS, MEDIAN, P90, Bools, Floats

BLOCK_ROWS: Final = 512
ROUNDING: Final = 1e-9  # relative error of a quantile


class Scorecard(Struct, frozen=True, kw_only=True):
    """The measures of `rows` requests.

    `pinball` is the mean pinball loss over rows and levels on log lengths, `pinball_tokens` on
    tokens. `mae` (tokens), `log_rmse_median` and `tau` (Kendall's τ-b) are those of the median.
    `coverage` is the share of lengths within the 0.9 quantile, `over_mean` the mean ratio of that
    quantile to the length. In stored versions and the admin API `log_rmse_median` is named
    `log_rmse`, and `over_mean` `reserved`.
    """

    rows: int
    pinball: float
    pinball_tokens: float
    mae: float
    log_rmse_median: float = field(name="log_rmse")
    tau: float
    coverage: float
    over_mean: float = field(name="reserved")


def evaluate(tokens: Floats, predicted: Floats) -> Scorecard:
    """All measures."""
    lengths = np.maximum(tokens, 1.0)
    logs, predicted_logs = np.log(lengths), np.log(np.maximum(predicted, 1.0))
    median, p90 = predicted[:, MEDIAN], predicted[:, P90]
    return Scorecard(
        rows=len(tokens),
        pinball=pinball(logs, predicted_logs),
        pinball_tokens=pinball(lengths, predicted),
        mae=mean(np.abs(lengths - median)),
        log_rmse_median=rms(logs - predicted_logs[:, MEDIAN]),
        tau=kendall_tau(lengths, median),
        coverage=mean(covered(lengths, p90).astype(np.float64)),
        over_mean=mean(p90 / lengths),
    )


def covered(lengths: Floats, quantile: Floats) -> Bools:
    """Which lengths (n,) are within a quantile (n,), up to rounding by the logarithm."""
    return lengths <= quantile * (1 + ROUNDING)


def pinball(actual: Floats, predicted: Floats) -> float:
    """Mean pinball loss over (n, len(LEVELS)): level · shortfall or (1 - level) · excess."""
    return mean(pinball_losses(actual, predicted))


def pinball_losses(actual: Floats, predicted: Floats) -> Floats:
    """Pinball loss of each row and level, (n, len(LEVELS))."""
    levels = np.array(LEVELS)
    short = actual[:, None] - predicted
    return np.maximum(levels * short, (levels - 1) * short)


def kendall_tau(left: Floats, right: Floats) -> float:
    """Kendall's τ-b of two series (Kendall 1945): 1 for equal order; 0 if one is constant.

    Compares all pairs in blocks: O(n²).
    """
    return float(tau_of_rows(left, right).sum())


def tau_difference_error(lengths: Floats, ours: Floats, theirs: Floats) -> float:
    """The standard error of the difference of two τ with the same lengths, (n,) each.

    τ is a U-statistic: its variance is four times that of a row's share in it (Hoeffding 1948).
    """
    if not len(lengths):
        return 0.0
    differences = tau_of_rows(lengths, ours) - tau_of_rows(lengths, theirs)
    return 2 * sqrt(len(lengths)) * float(differences.std())


def tau_of_rows(left: Floats, right: Floats) -> Floats:
    """What the pairs of each row add to τ-b, (n,)."""
    agree, untied_left, untied_right = np.zeros(len(left)), 0.0, 0.0
    for start in range(0, len(left), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        a = np.sign(left[part, None] - left)
        b = np.sign(right[part, None] - right)
        agree[part] = (a * b).sum(axis=1)
        untied_left += float(np.abs(a).sum())
        untied_right += float(np.abs(b).sum())
    scale = (untied_left * untied_right) ** 0.5
    return agree / scale if scale else agree


def mean(values: Floats) -> float:
    """Mean of all values; NaN for none."""
    return float(values.mean()) if values.size else float("nan")


def rms(errors: Floats) -> float:
    """Root mean square; NaN for none."""
    return sqrt(mean(errors**2))
