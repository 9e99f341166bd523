"""Contenders compared: each replays the same requests, and a hook measures what came of them."""

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
from gateway.replay.measure.outcomes import Outcomes
from gateway.replay.replicas import replay_on
from gateway.replay.workload.predictions import PredictorName, predicted
from gateway.replay.workload.workload import Workload
from gateway.scheduling.policy import POLICY_NAMES, Options, PolicyName, build_policy

ORACLE: Final = "oracle-"
FIRST_COME: Final = "fcfs"
CONTENDERS: Final = (*POLICY_NAMES, *(ORACLE + name for name in POLICY_NAMES))

Key = TypeVar("Key")
Measured = TypeVar("Measured")
Made = TypeVar("Made")


class Contender(Struct, frozen=True, kw_only=True):
    """A policy with its options, and the predictor that it knows lengths by."""

    name: str
    policy: PolicyName
    options: Options = Options()
    predictor: PredictorName = "recorded"

    @classmethod
    def of(cls, name: str, options: Options | None = None) -> Self:
        """The policy of this name; with `oracle-` before it, it knows true lengths.

        InvalidRequest for an unknown name lists the known ones.
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
class Case(Generic[Key]):
    """Requests that every contender gets: one load, for one seed.

    `key` identifies the case, but for its seed, to the caller. `requests` makes the workload, with
    its predictions, in the process that replays it. `engines` alike engines are fed in turn.
    """

    key: Key
    seed: int
    requests: Callable[[], Workload]
    engine: EngineModel
    contenders: Sequence[Contender]
    engines: int = 1

    @property
    def pages(self) -> int:
        """KV pages of all engines."""
        return self.engines * self.engine.shape.pages


@dataclass(frozen=True)
class Run:
    """One contender's run, as the hook gets it.

    `first_come_s` (n,) is when `fcfs` dispatched each request; None where it has not run before.
    """

    case: Case[Any]
    contender: Contender
    workload: Workload
    outcomes: Outcomes
    first_come_s: Floats | None


def measures_of(run: Run) -> Measures:
    """A hook: the run in numbers."""
    return measure(run.workload, run.outcomes, run.case.pages, run.first_come_s)


@dataclass(frozen=True, kw_only=True)
class Cell(Generic[Key, Measured]):
    """What the hook measured of each contender in one case; `rate_s` is arrivals a second."""

    key: Key
    seed: int
    rate_s: float
    measured: dict[str, Measured]


def compare(
    cases: Iterable[Case[Key]], hook: Callable[[Run], Measured], jobs: int = 1
) -> Iterator[Cell[Key, Measured]]:
    """A cell for each case, in order; `jobs` cases run at once.

    `fcfs` runs first, the others as given. For more than one job, cases and hook are pickled.
    """
    return in_processes(jobs, partial(_cell, hook), cases)


def in_processes(
    jobs: int, function: Callable[..., Made], *columns: Iterable[Any]
) -> Iterator[Made]:
    """What the function makes of each row of arguments, in order; one job runs in this process."""
    if jobs == 1:
        yield from map(function, *columns)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(function, *columns)


def replayed(
    contender: Contender, workload: Workload, engine: EngineModel, seed: int = 0, engines: int = 1
) -> Outcomes:
    """What came of requests that carry their predictions; the seed is for `shuffled` alone."""
    known = predicted(workload, contender.predictor, np.random.default_rng(seed))
    policy = partial(build_policy, contender.policy, contender.options)
    return replay_on(engines, known, policy, engine)


def _cell(hook: Callable[[Run], Measured], case: Case[Key]) -> Cell[Key, Measured]:
    workload = case.requests()
    first_come_s: Floats | None = None
    measured: dict[str, Measured] = {}
    for each in sorted(case.contenders, key=lambda each: each.name != FIRST_COME):
        outcomes = replayed(each, workload, case.engine, case.seed, case.engines)
        if each.name == FIRST_COME:
            first_come_s = outcomes.dispatched_s
        measured[each.name] = hook(Run(case, each, workload, outcomes, first_come_s))
    return Cell(key=case.key, seed=case.seed, rate_s=workload.rate_s, measured=measured)
