"""Replays for W1: texts' lengths on a simulated card, in a small and in a large pool."""

from collections.abc import Iterator
from itertools import product
from typing import Final

import numpy as np
from msgspec import Struct

from benchmarks.harness.contenders import (
    OURS,
    POOLS,
    fitting_smallest_pool,
    pool_of,
    saturated_rate,
)
from benchmarks.w1.judgement import Judgement, Wait, judge
from gateway.replay.comparison import map_in_processes
from gateway.replay.cost.model import EngineModel
from gateway.replay.simulator import replay
from gateway.replay.waits import ReplayedWaits
from gateway.replay.workload.scenario import Scenario
from gateway.replay.workload.synthetic import synthetic_lengths
from gateway.scheduling.policy import Options, build_policy

LOADS: Final = (0.95, 1.1)  # of FCFS's saturated rate
REQUESTS: Final = {"tight": 2_500, "roomy": 4_000}
QUICK_REQUESTS: Final = 800
SEEDS: Final = 2


class Cell(Struct, frozen=True):
    """One replay: its pool, load and seed, and the judgement of each estimate."""

    pool: str
    load: float
    seed: int
    judged: dict[str, Judgement]


def cells(engine: EngineModel, *, quick: bool, jobs: int) -> Iterator[Cell]:
    """All replays."""
    keys = list(product(POOLS, LOADS, range(1 if quick else SEEDS)))
    given = zip(*((engine, *key, quick) for key in keys), strict=True)
    yield from map_in_processes(jobs, _cell, *given)


def _cell(engine: EngineModel, pool: str, load: float, seed: int, quick: bool) -> Cell:
    fitting = fitting_smallest_pool(synthetic_lengths(), engine)
    sized = pool_of(POOLS[pool], engine, fitting)
    requests = QUICK_REQUESTS if quick else REQUESTS[pool]
    scenario = Scenario(source=fitting, arrivals="poisson", sample_size=requests)
    workload = scenario.workload(load * saturated_rate(scenario, sized, seed), seed)
    waits = ReplayedWaits(sized)
    results = replay(workload, build_policy(OURS, Options()), sized, waits=waits)
    known = [
        Wait(each.arrived_s, each.band, each.waited_s)
        for each in waits.judged.values()
        if each.waited_s is not None
    ]
    started = results.dispatched_s[np.isfinite(results.dispatched_s)]
    return Cell(pool, load, seed, judge(known, started.tolist()))
