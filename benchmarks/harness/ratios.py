"""The ratio of two contenders over paired runs, with a bootstrap interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import median, quantiles
from typing import Final

RESAMPLES: Final = 10_000
SEED: Final = 1


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios, with its 95 % interval."""

    runs: list[float]
    median: float
    low: float
    high: float


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Ratio | None:
    """Ours over theirs for each round that both ran; None without such a round.

    The interval is the percentile bootstrap of the median over rounds.
    """
    runs = [one / other for one, other in zip(ours, theirs, strict=False)]
    if not runs:
        return None
    rng = Random(SEED)
    medians = [median(rng.choices(runs, k=len(runs))) for _ in range(RESAMPLES)]
    cuts = quantiles(medians, n=40, method="inclusive")
    return Ratio(runs, median(runs), cuts[0], cuts[-1])
