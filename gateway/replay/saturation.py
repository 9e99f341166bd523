"""The saturated rate: requests a second under `fcfs` with a full queue. Load 1 is this rate."""

from typing import Final

import numpy as np

from gateway.quantiles import Floats
from gateway.replay.cost.model import EngineModel
from gateway.replay.simulator import replay
from gateway.replay.workload.workload import Workload
from gateway.scheduling.policy import Options, build_policy

MAX_REQUESTS: Final = 20_000
WARM_UP_SHARE: Final = 0.1  # of the time until the queue is empty
MIN_STEADY_SHARE: Final = 0.25  # of the requests; see `saturated_rate_s`


def saturated_rate_s(workload: Workload, engine: EngineModel, options: Options) -> float:
    """Requests a second that one engine completes under `fcfs` while requests always wait.

    All requests, or at most `MAX_REQUESTS` evenly spread ones, arrive at time 0. Those count that
    end after the warm-up and before the queue is empty. If these are less than `MIN_STEADY_SHARE`,
    because all requests fit at once, all count.
    """
    step = -(-len(workload) // MAX_REQUESTS)
    sample = workload.take(slice(None, None, step))
    at_once = sample.without_deadlines().with_arrivals(np.zeros(len(sample)))
    results = replay(at_once, build_policy("fcfs", options), engine)
    return _steady_rate_s(results.dispatched_s, results.finished_s)


def _steady_rate_s(dispatched_s: Floats, finished_s: Floats) -> float:
    empty_s = float(np.nanmax(dispatched_s))
    warm_s = WARM_UP_SHARE * empty_s
    steady = int(((finished_s > warm_s) & (finished_s <= empty_s)).sum())
    if steady < MIN_STEADY_SHARE * len(finished_s):
        return float((~np.isnan(finished_s)).sum() / np.nanmax(finished_s))
    return steady / (empty_s - warm_s)
