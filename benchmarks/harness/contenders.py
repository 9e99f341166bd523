"""What S2, S3 and S5 share: names, pools, saturation, and cells over seeds."""

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
POOLS: Final = {"tight": 8, "roomy": 64}  # mean requests that fit


def grouped(
    cells: Iterable[Cell[CaseKey, Measurement]],
) -> dict[CaseKey, list[Cell[CaseKey, Measurement]]]:
    """Cells that differ by seed alone, by what they have in common, in their order."""
    found: dict[CaseKey, list[Cell[CaseKey, Measurement]]] = {}
    for each in cells:
        found.setdefault(each.key, []).append(each)
    return found


def saturated(scenario: Scenario, engine: EngineModel, seed: int) -> float:
    """Requests a second that FCFS gets through of a seed's requests, saturated."""
    return saturated_rate_s(scenario.workload(1.0, seed), engine, Options())


def pool_of(requests: float, engine: EngineModel, workload: Workload) -> EngineModel:
    """The engine with a KV pool for this many mean requests, each at its end, in whole pages."""
    tokens = workload.prompt_tokens + workload.generation_tokens
    pages = -(-tokens // engine.shape.page_tokens)
    shape = msgspec.structs.replace(engine.shape, pages=round(requests * float(pages.mean())))
    return msgspec.structs.replace(engine, shape=shape)


def fitting(workload: Workload, engine: EngineModel) -> Workload:
    """What fits the smallest pool alone: the same requests for every pool."""
    return workload.within(pool_of(min(POOLS.values()), engine, workload).shape.max_sequence_tokens)


def ratio(values: Sequence[float]) -> ConfidenceInterval:
    """The geometric mean of ratios above 0 over the seeds, and its 95 % interval: above 0, too."""
    logs = confidence_interval([log(value) for value in values])
    return ConfidenceInterval(exp(logs.mean), exp(logs.low), exp(logs.high))
