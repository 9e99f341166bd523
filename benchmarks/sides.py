"""Policies beside each other on the same requests, on a simulated engine: what S2 to S5 replay."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from math import exp, log
from multiprocessing import get_context
from typing import Final, Self, TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from gateway.replay.comparison import ORACLE, parted
from gateway.replay.costs import EngineModel
from gateway.replay.estimate import Estimate, estimate
from gateway.replay.outcomes import Outcomes
from gateway.replay.predictions import PredictorName, predicted
from gateway.replay.simulator import replay
from gateway.replay.workload import Workload
from gateway.scheduling.policies import Options, PolicyName, build_policy

FCFS: Final = "fcfs"
OURS: Final = "lmaas"
OUR_ORACLE: Final = ORACLE + OURS

Task = TypeVar("Task")
Done = TypeVar("Done")


class Side(Struct, frozen=True, kw_only=True):
    """A policy with its options, and which predictor tells it of lengths."""

    name: str
    policy: PolicyName
    options: Options = Options()
    told: PredictorName = "recorded"


def side(name: str, options: Options | None = None) -> Side:
    """The policy of this name; with `oracle-` before it, told true lengths."""
    policy, oracle = parted(name)
    told: PredictorName = "oracle" if oracle else "recorded"
    return Side(name=name, policy=policy, options=options or Options(), told=told)


def replayed(each: Side, workload: Workload, engine: EngineModel, seed: int) -> Outcomes:
    """What came of requests that carry their predictions; chance is for `shuffled` alone."""
    told = predicted(workload, each.told, np.random.default_rng(seed))
    return replay(told, build_policy(each.policy, each.options), engine)


def pool_of(requests: float, engine: EngineModel, workload: Workload) -> EngineModel:
    """The engine with a KV pool for so many mean requests, each at its end, in whole pages."""
    tokens = workload.prompt_tokens + workload.generation_tokens
    pages = -(-tokens // engine.shape.page_tokens)
    shape = msgspec.structs.replace(engine.shape, pages=round(requests * float(pages.mean())))
    return msgspec.structs.replace(engine, shape=shape)


def ratio(values: Sequence[float]) -> Estimate:
    """The geometric mean of ratios above 0 over the seeds, and its 95 % interval: above 0, too."""
    logs = estimate([log(value) for value in values])
    return Estimate(exp(logs.mean), exp(logs.low), exp(logs.high))


class Workers:
    """So many processes to replay in; with one, everything is done here."""

    def __init__(self, jobs: int) -> None:
        self._pool = (
            ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) if jobs > 1 else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def each(self, function: Callable[[Task], Done], tasks: Iterable[Task]) -> Iterator[Done]:
        """What the function makes of each task, in order."""
        return map(function, tasks) if self._pool is None else self._pool.map(function, tasks)
