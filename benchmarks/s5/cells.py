"""The cells of S5: requests with deadlines in overload; refused ones are replayed as admitted."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import ceil
from typing import Final, TypeAlias

import msgspec
import numpy as np
from msgspec import Struct

from benchmarks.harness.contenders import FCFS, OURS, saturated_rate
from gateway.quantiles import Bools, Floats
from gateway.replay import comparison
from gateway.replay.comparison import Case, Contender, ReplayRun, measures_of, replay_contender
from gateway.replay.cost.model import EngineModel
from gateway.replay.measure.metrics import Measures
from gateway.replay.measure.results import ReplayResults
from gateway.replay.workload.scenario import Scenario
from gateway.replay.workload.workload import Workload

REQUESTS: Final = 3_000
LOAD: Final = 1.3
SLACK: Final = 3.0  # deadline over the response time on an idle engine
JUDGED_REFUSALS: Final = 210  # refused requests to admit after all, over all seeds
SJF: Final = "sjf"
CONTENDERS: Final = (FCFS, SJF, "hrrn", OURS)

Readmission: TypeAlias = Callable[[Workload, int], Workload]


class DeadlineMeasures(Struct, frozen=True, kw_only=True):
    """A contender's measures, and answers in time for each second of arrivals.

    Of our refused requests, `judged` were admitted after all, one at a time, in two replays each:
    `wrong` counts those that met their deadline when the policy did not know it, `wrong_in_order`
    those that met it when the policy knew it but did not refuse. Other contenders judge none.
    """

    measures: Measures
    goodput_s: float
    unloaded_s: float
    refused: int = 0
    judged: int = 0
    wrong: int = 0
    wrong_in_order: int = 0


SourceAndPool: TypeAlias = tuple[str, str]
Cell: TypeAlias = comparison.Cell[SourceAndPool, DeadlineMeasures]


def case(
    key: SourceAndPool, scenario: Scenario, engine: EngineModel, seed: int
) -> Case[SourceAndPool]:
    """Requests in overload, with deadlines."""
    return Case(
        key=key,
        seed=seed,
        requests=partial(with_deadlines, scenario, engine, seed),
        engine=engine,
        contenders=[Contender.of(name) for name in CONTENDERS],
    )


def with_deadlines(scenario: Scenario, engine: EngineModel, seed: int) -> Workload:
    """A seed's requests at `LOAD`; deadlines are `SLACK` times the unloaded response time."""
    workload = scenario.workload(LOAD * saturated_rate(scenario, engine, seed), seed)
    return replace(workload, deadline_s=SLACK * unloaded_s(workload, engine))


def deadline_measures(run: ReplayRun, max_judged: int) -> DeadlineMeasures:
    """The measures of a run; at most `max_judged` of our refusals are judged."""
    workload = run.workload
    found = DeadlineMeasures(
        measures=measures_of(run),
        goodput_s=goodput_s(workload, run.results),
        unloaded_s=float(workload.deadline_s.mean()) / SLACK,
    )
    if run.contender.name != OURS:
        return found
    refused = np.flatnonzero(run.results.gave_up)
    judged = np.random.default_rng(run.case.seed).permutation(refused)[:max_judged]
    wrong, wrong_in_order = (
        sum(
            meets_deadline(index, workload, run.case.engine, readmission)
            for index in judged.tolist()
        )
        for readmission in (without_deadline, without_refusal)
    )
    return msgspec.structs.replace(
        found,
        refused=len(refused),
        judged=len(judged),
        wrong=wrong,
        wrong_in_order=wrong_in_order,
    )


def unloaded_s(workload: Workload, engine: EngineModel) -> Floats:
    """Each request's response time on an idle engine, (n,): they arrive far apart."""
    longest = workload.prompt_tokens.max() + workload.generation_tokens.max()
    apart_s = 2 * engine.cost.run_seconds(1, float(longest), int(longest)) + 10.0
    alone = workload.without_deadlines().with_arrivals(
        apart_s * np.arange(len(workload), dtype=np.float64)
    )
    found: Floats = replay_contender(Contender.of(FCFS), alone, engine).finished_s - alone.arrived_s
    return found


def in_time(workload: Workload, results: ReplayResults) -> Bools:
    """Whether each request was answered before its deadline, (n,)."""
    met: Bools = results.finished_s - workload.arrived_s <= workload.deadline_s
    return met


def goodput_s(workload: Workload, results: ReplayResults) -> float:
    """Answers in time for each second of arrivals; the time after the last arrival is left out."""
    return float(in_time(workload, results).sum() / workload.arrived_s[-1])


def without_deadline(workload: Workload, index: int) -> Workload:
    """The workload without the deadline of one request: no refusal, no priority from it."""
    deadlines_s = workload.deadline_s.copy()
    deadlines_s[index] = np.nan
    return replace(workload, deadline_s=deadlines_s)


def without_refusal(workload: Workload, index: int) -> Workload:
    """The workload with one request that may have a single token: it is not refused.

    Its deadline still affects its order. The lower quantile makes it look a little shorter.
    """
    quantiles = workload.quantiles.copy()
    quantiles[index, 0] = 1.0
    return replace(workload, quantiles=quantiles)


def meets_deadline(
    index: int, workload: Workload, engine: EngineModel, readmission: Readmission
) -> bool:
    """Whether a request meets its deadline if it is admitted.

    All others are treated as before; requests that arrive after its deadline are left out.
    """
    due_s = workload.arrived_s[index] + workload.deadline_s[index]
    count = int(np.searchsorted(workload.arrived_s, due_s, side="right"))
    results = replay_contender(
        Contender.of(OURS), readmission(workload, index).take(slice(count)), engine
    )
    return bool(results.finished_s[index] <= due_s)


def judged_per_seed(judged: int, seeds: int) -> int:
    """The refusals to judge with each seed."""
    return ceil(judged / seeds)
