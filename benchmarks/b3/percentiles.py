"""Percentiles of paired requests, and intervals of their ratios."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from benchmarks.harness.ratios import SEED, Ratio
from gateway.quantiles import Floats

BLOCK: Final = 10  # successive requests, which wait for each other, are drawn together
RESAMPLES: Final = 2_000


def percentile_ratio(
    ours: Sequence[Floats], theirs: Sequence[Floats], level: float
) -> Ratio | None:
    """A percentile over another, of the same requests in each round: (n,) of every round.

    All rounds are one sample; the 95 % interval is that of a bootstrap over blocks of successive
    requests, the same ones on both sides. None without a round.
    """
    rounds = min(len(ours), len(theirs))
    if not rounds:
        return None
    over, under = np.concatenate(ours[:rounds]), np.concatenate(theirs[:rounds])
    rng = np.random.default_rng(SEED)
    blocks = np.array_split(np.arange(len(over)), max(len(over) // BLOCK, 1))
    drawn = [
        np.concatenate([blocks[number] for number in rng.integers(len(blocks), size=len(blocks))])
        for _ in range(RESAMPLES)
    ]
    ratios = [_ratio(over[rows], under[rows], level) for rows in drawn]
    low, high = np.quantile(ratios, (0.025, 0.975))
    of_rounds = [_ratio(one, other, level) for one, other in zip(ours, theirs, strict=False)]
    return Ratio(of_rounds, _ratio(over, under, level), float(low), float(high))


def _ratio(over: Floats, under: Floats, level: float) -> float:
    return float(np.quantile(over, level) / np.quantile(under, level))
