"""When a job will be done, as a band.

Progress is measured in predicted tokens of the lines that have ended: so a prediction that is wrong
by a factor cancels out, and what interactive traffic takes is in the measured pace. The band's
width follows from how the job's own pace has varied: of the logarithm of the pace between samples,
the variance s² and the autocorrelation r. The means of n past and of m coming ones then differ with

    v = s² · min(2, τ/n + τ/m),   τ = (1 + r) / (1 - r)

the variance of means of a first-order autoregressive series.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, TypeAlias

from msgspec import Struct

Sample: TypeAlias = tuple[float, float]
"""Seconds since 1970, and the work done until then."""

SAMPLES: Final = 64  # kept of a job; every second one is dropped when they are more
Z90: Final = 1.2816  # standard normal, 0.9 quantile
PRIOR_SPREAD: Final = 0.25  # s before any is known
PRIOR_CORRELATION: Final = 0.5
PRIOR_WEIGHT: Final = 4.0  # of both, in samples
MOST_CORRELATION: Final = 0.95
LEAST_ERROR: Final = 0.03
LEAST_PACE: Final = 0.05  # of the mean, for a time without progress
RECENT: Final = 0.5  # share of the time so far that the pace is measured over


class Band(Struct, frozen=True):
    """When a job will be done, in seconds since 1970: earlier with 10 %, with 90 % probability."""

    p10: float
    p90: float


def with_sample(samples: Sequence[Sample], now_s: float, done: float) -> list[Sample]:
    """The samples and a newer one, thinned out evenly once they are too many."""
    grown = [*samples, (now_s, done)]
    return grown if len(grown) <= SAMPLES else [*grown[:-1:2], grown[-1]]


def expected_completion(
    samples: Sequence[Sample], left: float, now_s: float, *, ahead: float, pace: float | None
) -> Band | None:
    """The band for a job with `left` work after `ahead` work of other jobs; None if unknown.

    `pace` is the engine's in tokens a second, used before the job has a pace of its own.
    """
    measured = pace_of(samples)
    if measured is not None:
        pace, ahead = measured, 0.0  # the others' share of the engine is in the job's own pace
    if not pace or pace <= 0:
        return None
    duration = (left + ahead) / pace
    width = Z90 * error_of(samples, duration)
    return Band(now_s + duration * math.exp(-width), now_s + duration * math.exp(width))


def pace_of(samples: Sequence[Sample]) -> float | None:
    """Work a second over the recent part of the samples; None before any progress."""
    if len(samples) < 2:  # noqa: PLR2004  a pace is between two
        return None
    (began, _), (ended, done) = samples[0], samples[-1]
    start = next(s for s in samples if s[0] >= ended - RECENT * (ended - began))
    if start[0] >= ended:
        start = samples[-2]
    for first in (start, samples[0]):
        seconds, work = ended - first[0], done - first[1]
        if seconds > 0 and work > 0:
            return work / seconds
    return None


def error_of(samples: Sequence[Sample], duration_s: float) -> float:
    """Standard deviation of the logarithm of the time that is still to come: √v."""
    times = [later[0] - earlier[0] for earlier, later in pairwise(samples)]
    done = [later[1] - earlier[1] for earlier, later in pairwise(samples)]
    paces = [work / seconds for work, seconds in zip(done, times, strict=True) if seconds > 0]
    mean = sum(paces) / len(paces) if paces else 0.0
    logs = [math.log(max(pace, LEAST_PACE * mean)) for pace in paces] if mean > 0 else []
    centre = sum(logs) / len(logs) if logs else 0.0
    squares = sum((log - centre) ** 2 for log in logs)
    products = sum((a - centre) * (b - centre) for a, b in pairwise(logs))
    prior = PRIOR_WEIGHT * PRIOR_SPREAD**2
    variance = (prior + squares) / (PRIOR_WEIGHT + max(len(logs) - 1, 0))
    correlation = (prior * PRIOR_CORRELATION + products) / (prior + squares)
    memory = (1 + correlation) / (1 - correlation) if correlation < MOST_CORRELATION else math.inf
    before = max(RECENT * len(logs), 1.0)
    after = max(duration_s * len(logs) / sum(times), 1.0) if logs else 1.0
    return max(math.sqrt(variance * min(2.0, memory / before + memory / after)), LEAST_ERROR)
