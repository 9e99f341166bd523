"""Arrival times: generated, or a trace's own gaps scaled, at a given mean rate.

Generated times are scaled so that their mean rate is exact for every seed, and so is the load.
"""

from typing import Final, Literal, TypeAlias

import numpy as np

from gateway.errors import InvalidRequest
from gateway.quantiles import Floats

ArrivalsName: TypeAlias = Literal["trace", "poisson", "gamma", "bursts"]

GAMMA_VARIATION: Final = (
    0.73**-0.5
)  # of a gamma with shape .73, as fitted to BurstGPT (arXiv 2401.17644)
CYCLE_REQUESTS: Final = 400.0  # in a high and a low phase together
HIGH_SHARE: Final = 0.2  # of the time
HIGH_RATE: Final = 3.0  # times the mean


def generate_arrivals(
    name: ArrivalsName,
    count: int,
    rate_s: float,
    random: np.random.Generator,
    variation: float = GAMMA_VARIATION,
) -> Floats:
    """Arrival times (count,) in seconds, increasing from 0, with a mean rate of `rate_s`.

    `variation` is the standard deviation of gamma-distributed gaps over their mean. ValueError for
    `trace`, whose arrivals are not generated.
    """
    match name:
        case "poisson":
            times = poisson(count, random)
        case "gamma":
            times = gamma(count, random, variation)
        case "bursts":
            times = bursts(count, random)
        case _:
            raise ValueError(f"{name} arrivals are not generated")
    return rescaled(times, rate_s) if count > 1 else np.zeros(count)


def rescaled(arrived_s: Floats, rate_s: float) -> Floats:
    """The times with all gaps scaled by one factor, for a mean rate of `rate_s`.

    InvalidRequest if all requests arrive at once.
    """
    since = arrived_s - arrived_s[0]
    if not since[-1]:
        raise InvalidRequest("requests that all arrive at once cannot be scaled to a load")
    scaled: Floats = since * ((len(since) - 1) / rate_s / since[-1])
    return scaled


def poisson(count: int, random: np.random.Generator) -> Floats:
    """A Poisson process: exponential gaps of mean 1."""
    return random.exponential(size=count).cumsum()


def gamma(count: int, random: np.random.Generator, variation: float) -> Floats:
    """Gamma gaps of mean 1 with this coefficient of variation; 1 gives a Poisson process."""
    shape = variation**-2
    return random.gamma(shape, 1 / shape, size=count).cumsum()


def bursts(count: int, random: np.random.Generator) -> Floats:
    """A Poisson process whose rate alternates between three times and half of the mean.

    It starts at a random point of the cycle.
    """
    start = CYCLE_REQUESTS * random.random()
    expected = np.concatenate([[start], start + random.exponential(size=count).cumsum()])
    cycles = np.arange(np.ceil(expected[-1] / CYCLE_REQUESTS) + 1)
    ends = cycles[:, None] + [0, HIGH_SHARE]  # of high phases, from and to, in cycles
    passed = cycles[:, None] + [
        0,
        HIGH_SHARE * HIGH_RATE,
    ]  # of the expected requests, at these ends
    times = np.interp(expected, CYCLE_REQUESTS * passed.ravel(), CYCLE_REQUESTS * ends.ravel())
    since: Floats = times[1:] - times[0]
    return since
