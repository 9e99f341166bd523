"""What a stage counts for against the one before it: a share in [0, 1], by app.

So the text parts count against the line, and the second stage against the first. Stacking (Wolpert
1992): log quantiles at share w are those of the earlier stage plus w times what the later one
changes, and w is chosen by the pinball loss on rows that were left out of the fit. In few rows gain
and luck look alike, so an app's losses count together with PRIOR_ROWS rows of all apps, and the
chosen share has the largest gain less `sureness` standard errors of it: with 1, without evidence it
is 0, and the earlier stage serves.
"""

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from gateway.quantiles import LEVELS, Floats

SHARES: Final = np.linspace(0.0, 1.0, 11)
PRIOR_ROWS: Final = 20.0  # rows of all apps that count in each app
SURENESS: Final = 1.0  # standard errors by which the text parts have to gain against the line

AppRows = dict[UUID, NDArray[np.intp]]


def share_losses(earlier: Floats, later: Floats, lengths: Floats) -> Floats:
    """The loss of each share for n rows, (n, len(SHARES)).

    `earlier` and `later` are log quantiles (n, len(LEVELS)) of the two stages, `lengths` (n, draws)
    equally likely log lengths of each row.
    """
    levels = np.array(LEVELS)[:, None]
    losses = np.empty((len(earlier), len(SHARES)))
    for number, share in enumerate(SHARES):
        quantiles = blend(earlier, later, np.full(len(earlier), share))
        short = lengths[:, None, :] - quantiles[:, :, None]
        losses[:, number] = np.maximum(levels * short, (levels - 1) * short).mean(axis=(1, 2))
    return losses


def choose_shares(
    losses: Floats, weights: Floats, rows_of: AppRows, *, sureness: float = SURENESS
) -> tuple[float, dict[UUID, float]]:
    """The share for all apps together, and that of each app, from losses (n, len(SHARES))."""
    gains = losses[:, :1] - losses
    mean, variance = _moments(gains, weights)
    pooled = _share(mean, variance / max(len(gains), 1), sureness)
    shares = {}
    for app, rows in rows_of.items():
        own_mean, own_variance = _moments(gains[rows], weights[rows])
        total = len(rows) + PRIOR_ROWS
        together = (len(rows) * own_mean + PRIOR_ROWS * mean) / total
        spread = (len(rows) * own_variance + PRIOR_ROWS * variance) / total
        shares[app] = _share(together, spread / total, sureness)
    return pooled, shares


def shares_of(apps: Sequence[UUID], shares: Mapping[UUID, float], share: float) -> Floats:
    """The share of each of n requests, (n,): its app's, or `share` where the app has none."""
    return np.array([shares.get(app, share) for app in apps])


def blend(earlier: Floats, later: Floats, shares: Floats) -> Floats:
    """Log quantiles (n, len(LEVELS)) at the shares (n,), ascending."""
    # Sorting a row never increases its pinball loss (Chernozhukov et al. 2010).
    return np.sort(earlier + shares[:, None] * (np.sort(later, axis=1) - earlier), axis=1)


def _moments(gains: Floats, weights: Floats) -> tuple[Floats, Floats]:
    if not len(gains):
        return np.zeros(len(SHARES)), np.zeros(len(SHARES))
    mean = np.average(gains, axis=0, weights=weights)
    return mean, np.average((gains - mean) ** 2, axis=0, weights=weights)


def _share(mean: Floats, variance: Floats, sureness: float) -> float:
    """The share with the largest gain that is sure."""
    return float(SHARES[int(np.argmax(mean - sureness * np.sqrt(variance)))])
