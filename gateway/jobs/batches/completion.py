"""When a job will be done, as a band.

Progress is measured in predicted tokens of the lines that have ended: so a prediction that is wrong
by a factor cancels out, and what interactive traffic takes is in the measured pace. The band's
width is what earlier predictions of the same job were wrong by: at each past time, the pace until
then is compared with the pace that followed, over as long a time as is still to come.
"""

import math
from collections.abc import Sequence
from typing import Final, TypeAlias

from msgspec import Struct

Sample: TypeAlias = tuple[float, float]
"""Seconds since 1970, and the work done until then."""

SAMPLES: Final = 64  # kept of a job; every second one is dropped when they are more
Z90: Final = 1.2816  # standard normal, 0.9 quantile
PRIOR_ERROR: Final = 0.35  # standard deviation of the logarithm of a pace, before any is known
PRIOR_WEIGHT: Final = 2.0  # in observed errors
LEAST_ERROR: Final = 0.05
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
    """Standard deviation of the logarithm of the remaining time, by the job's own errors."""
    squares = []
    for split in range(2, len(samples) - 1):
        before = pace_of(samples[:split])
        until = samples[split - 1][0] + duration_s
        after = pace_between(samples[split - 1 :], until)
        if before is not None and after is not None:
            squares.append(math.log(after / before) ** 2)
    total = PRIOR_WEIGHT * PRIOR_ERROR**2 + sum(squares)
    return max(math.sqrt(total / (PRIOR_WEIGHT + len(squares))), LEAST_ERROR)


def pace_between(samples: Sequence[Sample], until_s: float) -> float | None:
    """Work a second from the first sample to the last one before `until_s`; None without work."""
    first, last = samples[0], [s for s in samples[1:] if s[0] <= until_s] or [samples[-1]]
    seconds, work = last[-1][0] - first[0], last[-1][1] - first[1]
    return work / seconds if seconds > 0 and work > 0 else None
