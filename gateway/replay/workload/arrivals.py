"""When requests arrive: the trace's own gaps, or generated ones, at a given mean rate.

All are made for a rate of 1 and then stretched, so that the gaps have the wanted mean whatever the
seed: loads are met exactly.
"""

from typing import Final, Literal, TypeAlias

import numpy as np

from gateway.errors import InvalidRequest
from gateway.quantiles import Floats

ArrivalsName: TypeAlias = Literal["trace", "poisson", "gamma", "bursts"]

VARIATION: Final = 0.73**-0.5  # of a gamma with shape .73, as fitted to BurstGPT (arXiv 2401.17644)
CYCLE: Final = 400.0  # requests in a high and a low phase together
HIGH_SHARE: Final = 0.2  # of the time
HIGH_RATE: Final = 3.0  # times the mean


def generated(
    name: ArrivalsName,
    count: int,
    rate_s: float,
    random: np.random.Generator,
    variation: float = VARIATION,
) -> Floats:
    """Arrival times (count,) in seconds, rising from 0, `rate_s` a second on average.

    `variation` is the standard deviation of gamma gaps over their mean. ValueError for `trace`,
    which is not generated.
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
    """The same gaps, all longer or shorter by one factor, so that `rate_s` come a second.

    InvalidRequest where all arrive at once: no factor helps.
    """
    since = arrived_s - arrived_s[0]
    if not since[-1]:
        raise InvalidRequest("requests that all arrive at once cannot be brought to a load")
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
    """A Poisson process whose rate alternates between three times the mean and half of it.

    The first phase is entered at a random point.
    """
    begun = CYCLE * random.random()
    expected = np.concatenate([[begun], begun + random.exponential(size=count).cumsum()])
    cycles = np.arange(np.ceil(expected[-1] / CYCLE) + 1)
    ends = cycles[:, None] + [0, HIGH_SHARE]  # in cycles; each high phase from and to
    passed = cycles[:, None] + [0, HIGH_SHARE * HIGH_RATE]  # of the requests, by then
    times = np.interp(expected, CYCLE * passed.ravel(), CYCLE * ends.ravel())
    since: Floats = times[1:] - times[0]
    return since
