"""Quantiles of right-censored samples by the Kaplan-Meier estimator.

A generation that `max_tokens` or its client cut off is *censored*: its natural length is at least
the tokens generated. The estimator of Kaplan and Meier (1958) moves the weight of a censored value
to the natural values above it. Efron (1967) closes the tail: the largest value counts as natural.
"""

import numpy as np

from gateway.quantiles import Bools, Floats

ROUNDING = 1e-9  # error of a cumulative weight


def kaplan_meier(values: Floats, censored: Bools) -> tuple[Floats, Floats]:
    """The n values, sorted, and their Kaplan-Meier weights, which sum to one.

    Without censored values every weight is 1/n. Both are empty for n = 0.
    """
    n = len(values)
    order = np.lexsort((censored, values))  # among equal values, censored ones last
    ended = ~censored[order]
    ended[-1:] = True
    at_risk = np.arange(n, 0, -1)
    alive = np.cumprod(np.where(ended, 1 - 1 / at_risk, 1.0))
    before = np.concatenate(([1.0], alive[:-1]))[:n]
    return values[order], np.where(ended, before / at_risk, 0.0)


def weighted_quantiles(ordered: Floats, weights: Floats, levels: Floats) -> Floats:
    """The smallest value whose cumulative weight reaches each level; `ordered` is not empty."""
    reached = np.searchsorted(np.cumsum(weights), levels - ROUNDING)
    return ordered[np.minimum(reached, len(ordered) - 1)]
