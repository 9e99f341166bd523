"""Calibrates the bands of jobs by the ends of earlier ones.

While a job runs, what is expected of it is noted at certain shares of its work. When it has ended,
each has an error

    z = ln(seconds that were left / seconds expected) / standard deviation expected

The band of a running job lies between the tenth and the ninetieth percentile of z over the jobs
before it. As a conformal band, it covers the next end as often as it should, whatever the forecast
misses, as long as jobs stay alike.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from statistics import NormalDist
from typing import Final

import msgspec
from msgspec import Struct

from gateway.jobs.batches.progress.completion import Forecast, Scale

SHARES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)  # of the work, at which forecasts are noted
PRIOR: Final = NormalDist(0.0, 1.2)
PRIOR_JOBS: Final = 8  # that the prior counts as; less by one with every FADE jobs
FADE: Final = 4
LEAST_LEFT_S: Final = 0.05


class NotedForecast(Struct, frozen=True, array_like=True):
    """What was expected of a job at a share of its work; `at`: seconds since 1970."""

    share: float
    at: float
    left_s: float
    error: float

    @classmethod
    def of(cls, share: float, at: float, found: Forecast) -> "NotedForecast":
        """A forecast made then."""
        return cls(share, at, found.left_s, found.error)

    def z(self, ended: float) -> float:
        """The error, for a job that ended then."""
        return math.log(max(ended - self.at, LEAST_LEFT_S) / self.left_s) / self.error


def noted_forecasts(stored: object) -> list[NotedForecast]:
    """The forecasts that a job's row has; those that cannot be read are left out."""
    found: list[NotedForecast] = []
    for each in stored if isinstance(stored, list) else ():
        with suppress(msgspec.ValidationError):
            noted = msgspec.convert(each, NotedForecast)
            if noted.left_s > 0 and noted.error > 0:
                found.append(noted)
    return found


class EndedJob(Struct, frozen=True):
    """A job whose lines have all ended, and when."""

    forecasts: Sequence[NotedForecast]
    ended: float


class Calibration(Struct, frozen=True):
    """The scale at each of SHARES."""

    scales: Sequence[Scale]

    def scale_at(self, share: float) -> Scale:
        """Interpolated between the shares, and constant outside."""
        known = list(zip(SHARES, self.scales, strict=True))
        if share <= SHARES[0]:
            return self.scales[0]
        for (left, lower), (right, upper) in pairwise(known):
            if share <= right:
                part = (share - left) / (right - left)
                return Scale(
                    lower.p10 + part * (upper.p10 - lower.p10),
                    lower.p90 + part * (upper.p90 - lower.p90),
                )
        return self.scales[-1]


def share_to_note(share: float, noted: Sequence[NotedForecast]) -> float | None:
    """Which of SHARES a job has just passed, whose forecast is not noted yet."""
    passed = max((each for each in SHARES if each <= share), default=None)
    if passed is None or any(each.share >= passed for each in noted):
        return None
    return passed


def calibrate(jobs: Sequence[EndedJob]) -> Calibration:
    """From the errors of jobs, and a prior while they are few."""
    scales = []
    for share in SHARES:
        errors = [
            noted.z(job.ended) for job in jobs for noted in job.forecasts if noted.share == share
        ]
        ordered = sorted([*_prior(PRIOR_JOBS - len(errors) // FADE), *errors])
        scales.append(Scale(_quantile(ordered, 0.1), _quantile(ordered, 0.9)))
    return Calibration(scales)


def _prior(jobs: int) -> list[float]:
    """Errors of this number of jobs that are as the prior."""
    return [PRIOR.inv_cdf((n + 0.5) / jobs) for n in range(jobs)]


def _quantile(ordered: Sequence[float], level: float) -> float:
    """The level's quantile among one more value than there are: that of the next job."""
    place = level * (len(ordered) + 1) - 1
    low = min(max(math.floor(place), 0), len(ordered) - 2)
    part = min(max(place - low, 0.0), 1.0)
    return ordered[low] + part * (ordered[low + 1] - ordered[low])
