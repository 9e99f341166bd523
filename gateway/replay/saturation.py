"""What load is: arrivals as a share of what the engine gets through under `fcfs`, saturated."""

from typing import Final

import numpy as np

from gateway.quantiles import Floats
from gateway.replay.cost.model import EngineModel
from gateway.replay.simulator import replay
from gateway.replay.workload.workload import Workload
from gateway.scheduling.policy import Options, build_policy

MOST_REQUESTS: Final = 20_000
FILLING: Final = 0.1  # of the time until the queue is empty
ENOUGH: Final = 0.25  # of the requests must end while the queue is full, to count them alone


def saturated_rate_s(workload: Workload, engine: EngineModel, options: Options) -> float:
    """Requests a second that one engine completes under `fcfs` while none is ever short of work.

    All requests, or as many of them evenly spread, are there from the start. Counted are those
    that end after the engine has filled and before the queue is empty; where too few do, because
    all fit at once, all are.
    """
    step = -(-len(workload) // MOST_REQUESTS)
    some = workload.take(slice(None, None, step))
    at_once = some.unhurried().arriving(np.zeros(len(some)))
    outcomes = replay(at_once, build_policy("fcfs", options), engine)
    return _steady_rate_s(outcomes.dispatched_s, outcomes.finished_s)


def _steady_rate_s(dispatched_s: Floats, finished_s: Floats) -> float:
    empty_s = float(np.nanmax(dispatched_s))
    full_s = FILLING * empty_s
    steady = int(((finished_s > full_s) & (finished_s <= empty_s)).sum())
    if steady < ENOUGH * len(finished_s):
        return float((~np.isnan(finished_s)).sum() / np.nanmax(finished_s))
    return steady / (empty_s - full_s)
