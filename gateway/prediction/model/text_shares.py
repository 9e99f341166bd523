"""What the text parts count for against the line per app: a share in [0, 1], by app.

Stacking (Wolpert 1992): log quantiles at share w are those of the line plus w times what kernels
and trees change, and w is chosen by the pinball loss on rows that were left out of the fit. In few
rows gain and luck look alike, so an app's losses count together with PRIOR_ROWS rows of all apps,
and the chosen share has the largest gain less SURENESS standard errors of it: without evidence it
is 0, and the line serves.
"""

from typing import Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from gateway.quantiles import LEVELS, Floats

SHARES: Final = np.linspace(0.0, 1.0, 11)
PRIOR_ROWS: Final = 20.0  # rows of all apps that count in each app
SURENESS: Final = 1.0  # standard errors by which a share has to gain

AppRows = dict[UUID, NDArray[np.intp]]


def share_losses(line: Floats, full: Floats, lengths: Floats) -> Floats:
    """The loss of each share for n rows, (n, len(SHARES)).

    `line` and `full` are log quantiles (n, len(LEVELS)), `lengths` (n, draws) equally likely log
    lengths of each row.
    """
    levels = np.array(LEVELS)[:, None]
    losses = np.empty((len(line), len(SHARES)))
    for number, share in enumerate(SHARES):
        quantiles = blend(line, full, np.full(len(line), share))
        short = lengths[:, None, :] - quantiles[:, :, None]
        losses[:, number] = np.maximum(levels * short, (levels - 1) * short).mean(axis=(1, 2))
    return losses


def choose_shares(
    losses: Floats, weights: Floats, rows_of: AppRows
) -> tuple[float, dict[UUID, float]]:
    """The share for all apps together, and that of each app, from losses (n, len(SHARES))."""
    gains = losses[:, :1] - losses
    mean, variance = _moments(gains, weights)
    pooled = _share(mean, variance / max(len(gains), 1))
    shares = {}
    for app, rows in rows_of.items():
        own_mean, own_variance = _moments(gains[rows], weights[rows])
        total = len(rows) + PRIOR_ROWS
        together = (len(rows) * own_mean + PRIOR_ROWS * mean) / total
        spread = (len(rows) * own_variance + PRIOR_ROWS * variance) / total
        shares[app] = _share(together, spread / total)
    return pooled, shares


def blend(line: Floats, full: Floats, shares: Floats) -> Floats:
    """Log quantiles (n, len(LEVELS)) at the shares (n,), ascending."""
    # Sorting a row never increases its pinball loss (Chernozhukov et al. 2010).
    return np.sort(line + shares[:, None] * (np.sort(full, axis=1) - line), axis=1)


def _moments(gains: Floats, weights: Floats) -> tuple[Floats, Floats]:
    if not len(gains):
        return np.zeros(len(SHARES)), np.zeros(len(SHARES))
    mean = np.average(gains, axis=0, weights=weights)
    return mean, np.average((gains - mean) ** 2, axis=0, weights=weights)


def _share(mean: Floats, variance: Floats) -> float:
    """The share with the largest gain that is sure."""
    return float(SHARES[int(np.argmax(mean - SURENESS * np.sqrt(variance)))])
