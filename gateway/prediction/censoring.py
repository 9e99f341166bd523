"""Quantiles of values of which some are only known to be larger than what was seen.

A generation cut off by `max_tokens` or by its reader says that the natural length is at least
what was generated. Kaplan and Meier (1958) weigh such samples: the mass of a censored value goes
to the natural ones above it. Efron (1967) closes the tail: the largest value counts as natural.
"""

import numpy as np

from gateway.quantiles import Bools, Floats

ROUNDING = 1e-9  # cumulated weights may miss a level by this much


def kaplan_meier(values: Floats, censored: Bools) -> tuple[Floats, Floats]:
    """The n values in rising order and their weights, which sum to one.

    Without censored values every weight is 1/n. Both are empty for n = 0.
    """
    n = len(values)
    order = np.lexsort((censored, values))  # at a tie the censored one lies above
    ended = ~censored[order]
    ended[-1:] = True
    at_risk = np.arange(n, 0, -1)
    alive = np.cumprod(np.where(ended, 1 - 1 / at_risk, 1.0))
    before = np.concatenate(([1.0], alive[:-1]))[:n]
    return values[order], np.where(ended, before / at_risk, 0.0)


def weighted_quantiles(ordered: Floats, weights: Floats, levels: Floats) -> Floats:
    """The least value whose cumulated weight reaches each level; `ordered` must not be empty."""
    reached = np.searchsorted(np.cumsum(weights), levels - ROUNDING)
    return ordered[np.minimum(reached, len(ordered) - 1)]
