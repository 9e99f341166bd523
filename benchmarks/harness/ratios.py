"""Two sides compared run by run, with the interval that so few runs allow."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import median, quantiles
from typing import Final

RESAMPLES: Final = 10_000
SEED: Final = 1


@dataclass(frozen=True)
class Ratio:
    """The median of paired ratios, and the 95 % interval of it."""

    runs: list[float]
    median: float
    low: float
    high: float


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Ratio | None:
    """Ours over theirs, round by round, as far as both went; None where they never met.

    The interval is the percentile bootstrap of the median, over rounds.
    """
    runs = [one / other for one, other in zip(ours, theirs, strict=False)]
    if not runs:
        return None
    rng = Random(SEED)
    medians = [median(rng.choices(runs, k=len(runs))) for _ in range(RESAMPLES)]
    cuts = quantiles(medians, n=40, method="inclusive")
    return Ratio(runs, median(runs), cuts[0], cuts[-1])
