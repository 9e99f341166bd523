"""The KV memory that what runs now will use, as admission expects it: its peak and its band.

The same pages and survivals as in `scheduling.admission.future_peak`, whose sum over sequences is
taken as normal: four of five times the use lies between `low` and `high`. Steps become seconds at
the engine's present pace.
"""

from typing import Final

import numpy as np
from msgspec import Struct

from gateway.generation.scheduler import Scheduler
from gateway.scheduling.admission.page_forecast import INTERVAL_ENDS, interval_count, page_use_ahead

BAND: Final = 1.2815515655446004  # standard deviations to the 0.9 quantile
MAX_POINTS: Final = 64
NEGLIGIBLE: Final = 0.002  # of the pool: after it, the forecast ends
MAX_SEQUENCES: Final = 1_024


class MemoryUse(Struct, frozen=True):
    """The expected use of the pool in `in_s` seconds, as shares: mean and 0.1 to 0.9 quantiles."""

    in_s: float
    mean: float
    low: float
    high: float


class MemoryForecast(Struct, frozen=True):
    """The use ahead, in order of time, and its peak."""

    course: list[MemoryUse]
    peak: MemoryUse


def forecast_memory(scheduler: Scheduler) -> MemoryForecast | None:
    """The forecast of what runs now; None while nothing runs or no engine is known."""
    kv, running = scheduler.engine.kv, scheduler.table.in_engine()[:MAX_SEQUENCES]
    step_s = _step_s(scheduler)
    if kv is None or not kv.pages or not running or not step_s:
        return None
    longest = max(each.max_tokens - each.generated for each in running)
    count = min(max(interval_count(max(longest, 1)), 2), len(INTERVAL_ENDS))
    means, variances = page_use_ahead(running, kv.page_tokens, count)
    mean = (means.sum(axis=0) + kv.pinned) / kv.pages
    deviation = np.sqrt(variances.sum(axis=0)) / kv.pages
    low, high = np.maximum(mean - BAND * deviation, 0.0), mean + BAND * deviation
    course = [
        MemoryUse(float(step * step_s), float(m), float(a), float(b))
        for step, m, a, b in zip(INTERVAL_ENDS[:count], mean, low, high, strict=True)
    ]
    peak = max(course, key=lambda use: use.mean)
    ends = next(
        (place for place, use in enumerate(course) if place and use.high < NEGLIGIBLE), count
    )
    return MemoryForecast(course[: min(ends + 1, MAX_POINTS)], peak)


def _step_s(scheduler: Scheduler) -> float:
    """Seconds of a step at the present pace; 0 if it is not known."""
    return scheduler.waits.estimator.step_s or scheduler.engine.step_s or 0.0
