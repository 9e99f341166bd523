"""Shared by S2, S3, S5 and U2: contenders' names, pools, saturation, and cells over seeds."""

from collections.abc import Iterable, Sequence
from math import exp, log
from typing import Final

import msgspec

from gateway.replay.comparison import ORACLE, CaseKey, Cell, Measurement
from gateway.replay.cost.model import EngineModel
from gateway.replay.measure.confidence import ConfidenceInterval, confidence_interval
from gateway.replay.saturation import saturated_rate_s
from gateway.replay.workload.scenario import Scenario
from gateway.replay.workload.workload import Workload
from gateway.scheduling.policy import Options

FCFS: Final = "fcfs"
OURS: Final = "lmaas"
OUR_ORACLE: Final = ORACLE + OURS
SEEDS: Final = 3
POOLS: Final = {"tight": 8, "roomy": 64}  # number of mean requests that fit


def group_by_key(
    cells: Iterable[Cell[CaseKey, Measurement]],
) -> dict[CaseKey, list[Cell[CaseKey, Measurement]]]:
    """Cells grouped by key, in order; those of a group differ only in their seed."""
    found: dict[CaseKey, list[Cell[CaseKey, Measurement]]] = {}
    for each in cells:
        found.setdefault(each.key, []).append(each)
    return found


def trace_part(trace: Workload, requests: int, seed: int, seeds: int) -> Workload:
    """`requests` consecutive requests, or all; the parts of seeds are evenly spaced."""
    spare = max(len(trace) - requests, 0)
    first = spare * seed // max(seeds - 1, 1)
    return trace.take(slice(first, first + requests))


def saturated_rate(scenario: Scenario, engine: EngineModel, seed: int) -> float:
    """FCFS's saturated rate on a seed's requests."""
    return saturated_rate_s(scenario.workload(1.0, seed), engine, Options())


def pool_of(requests: float, engine: EngineModel, workload: Workload) -> EngineModel:
    """The engine with a KV pool for `requests` mean requests, in whole pages at their end."""
    tokens = workload.prompt_tokens + workload.generation_tokens
    pages = -(-tokens // engine.shape.page_tokens)
    shape = msgspec.structs.replace(engine.shape, pages=round(requests * float(pages.mean())))
    return msgspec.structs.replace(engine, shape=shape)


def fitting_smallest_pool(workload: Workload, engine: EngineModel) -> Workload:
    """The requests that fit the smallest pool, so that every pool gets the same ones."""
    return workload.within(pool_of(min(POOLS.values()), engine, workload).shape.max_sequence_tokens)


def mean_ratio(values: Sequence[float]) -> ConfidenceInterval:
    """The geometric mean of positive ratios over the seeds, with its 95 % interval."""
    logs = confidence_interval([log(value) for value in values])
    return ConfidenceInterval(exp(logs.mean), exp(logs.low), exp(logs.high))
