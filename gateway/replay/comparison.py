"""Compares contenders: each replays the same requests, and a hook measures the results."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any, Final, Generic, Self, TypeVar

import numpy as np
from msgspec import Struct

from gateway.errors import InvalidRequest
from gateway.quantiles import Floats
from gateway.replay.cost.model import EngineModel
from gateway.replay.measure.metrics import Measures, measure
from gateway.replay.measure.results import ReplayResults
from gateway.replay.replicas import replay_engines
from gateway.replay.routers import RouterName
from gateway.replay.workload.predictions import PredictorName, with_predictions
from gateway.replay.workload.workload import Workload
from gateway.scheduling.policy import POLICY_NAMES, Options, PolicyName, build_policy

ORACLE: Final = "oracle-"
FCFS: Final = "fcfs"
CONTENDERS: Final = (*POLICY_NAMES, *(ORACLE + name for name in POLICY_NAMES))

CaseKey = TypeVar("CaseKey")
Measurement = TypeVar("Measurement")
Output = TypeVar("Output")


class Contender(Struct, frozen=True, kw_only=True):
    """A policy with its options, and the predictor whose lengths it gets.

    `router` is how requests get to several engines.
    """

    name: str
    policy: PolicyName
    options: Options = Options()
    predictor: PredictorName = "recorded"
    router: RouterName = "round-robin"

    @classmethod
    def of(cls, name: str, options: Options | None = None) -> Self:
        """The policy of this name; with the prefix `oracle-` it gets the true lengths.

        InvalidRequest for an unknown name; it lists the known ones.
        """
        bare = name.removeprefix(ORACLE)
        predictor: PredictorName = "recorded" if bare == name else "oracle"
        for policy in POLICY_NAMES:
            if policy == bare:
                return cls(
                    name=name, policy=policy, options=options or Options(), predictor=predictor
                )
        raise InvalidRequest(f"there is no policy {name}; known are {', '.join(CONTENDERS)}")


@dataclass(frozen=True, kw_only=True)
class Case(Generic[CaseKey]):
    """The requests that every contender gets: one load with one seed.

    `key` and `seed` identify the case to the caller. `requests` makes the workload, with its
    predictions, in the process that replays it. They go to an engine for each of
    `speeds`, which are relative to `engine`.
    """

    key: CaseKey
    seed: int
    requests: Callable[[], Workload]
    engine: EngineModel
    contenders: Sequence[Contender]
    speeds: Sequence[float] = (1.0,)

    @property
    def pages(self) -> int:
        """KV pages of all engines together."""
        return len(self.speeds) * self.engine.shape.pages


@dataclass(frozen=True)
class ReplayRun:
    """A run of one contender, as the hook gets it.

    `fcfs_dispatched_s` (n,) is the dispatch time of each request under `fcfs`; None if `fcfs` did
    not run before.
    """

    case: Case[Any]
    contender: Contender
    workload: Workload
    results: ReplayResults
    fcfs_dispatched_s: Floats | None


def measures_of(run: ReplayRun) -> Measures:
    """A hook: the measures of the run."""
    return measure(run.workload, run.results, run.case.pages, run.fcfs_dispatched_s)


@dataclass(frozen=True, kw_only=True)
class Cell(Generic[CaseKey, Measurement]):
    """The hook's output for each contender of one case; `rate_s` is the arrivals a second."""

    key: CaseKey
    seed: int
    rate_s: float
    measured: dict[str, Measurement]


def compare(
    cases: Iterable[Case[CaseKey]], hook: Callable[[ReplayRun], Measurement], jobs: int = 1
) -> Iterator[Cell[CaseKey, Measurement]]:
    """A cell for each case, in order; `jobs` cases run at once.

    `fcfs` runs first, the others in the given order. With several jobs, cases and hook are pickled.
    """
    return map_in_processes(jobs, partial(_cell, hook), cases)


def map_in_processes(
    jobs: int, function: Callable[..., Output], *columns: Iterable[Any]
) -> Iterator[Output]:
    """Like `map`, with `jobs` processes; a single job runs in this process."""
    if jobs == 1:
        yield from map(function, *columns)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(function, *columns)


def replay_contender(
    contender: Contender,
    workload: Workload,
    engine: EngineModel,
    seed: int = 0,
    speeds: Sequence[float] = (1.0,),
) -> ReplayResults:
    """The results of requests that carry their predictions; only `shuffled` uses the seed."""
    predicted = with_predictions(workload, contender.predictor, np.random.default_rng(seed))
    policy = partial(build_policy, contender.policy, contender.options)  # of how many engines
    engines = [engine.at_speed(speed) for speed in speeds]
    return replay_engines(engines, predicted, policy, contender.router)


def _cell(
    hook: Callable[[ReplayRun], Measurement], case: Case[CaseKey]
) -> Cell[CaseKey, Measurement]:
    workload = case.requests()
    fcfs_dispatched_s: Floats | None = None
    measured: dict[str, Measurement] = {}
    for each in sorted(case.contenders, key=lambda each: each.name != FCFS):
        results = replay_contender(each, workload, case.engine, case.seed, case.speeds)
        if each.name == FCFS:
            fcfs_dispatched_s = results.dispatched_s
        measured[each.name] = hook(ReplayRun(case, each, workload, results, fcfs_dispatched_s))
    return Cell(key=case.key, seed=case.seed, rate_s=workload.rate_s, measured=measured)
