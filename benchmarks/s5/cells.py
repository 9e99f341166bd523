"""What S5 replays: requests with deadlines in overload, and refused ones again, as if let in."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import ceil
from typing import Final, TypeAlias

import msgspec
import numpy as np
from msgspec import Struct

from benchmarks.harness.contenders import FCFS, OURS, saturated
from gateway.quantiles import Bools, Floats
from gateway.replay import comparison
from gateway.replay.comparison import Case, Contender, Run, measures_of, replayed
from gateway.replay.cost.model import EngineModel
from gateway.replay.measure.metrics import Measures
from gateway.replay.measure.outcomes import Outcomes
from gateway.replay.workload.scenario import Scenario
from gateway.replay.workload.workload import Workload

REQUESTS: Final = 3_000
LOAD: Final = 1.3
SLACK: Final = 3.0  # times what an answer takes with the engine to itself
JUDGED: Final = 210  # refused requests that are let in, over all seeds
SIDES: Final = (FCFS, "sjf", "hrrn", OURS)

LetIn: TypeAlias = Callable[[Workload, int], Workload]


class Served(Struct, frozen=True, kw_only=True):
    """What a contender came to: measures, and answers in time for each second of arrivals.

    Of our refusals `judged` were let in, each alone and twice: `wrong` of these met their deadline
    where it was hidden, `wrong_in_order` as it is, but for the refusal. Others have none judged.
    """

    measures: Measures
    goodput_s: float
    unloaded_s: float
    refused: int = 0
    judged: int = 0
    wrong: int = 0
    wrong_in_order: int = 0


Place: TypeAlias = tuple[str, str]  # source and pool
Cell: TypeAlias = comparison.Cell[Place, Served]


def case(place: Place, scenario: Scenario, engine: EngineModel, seed: int) -> Case[Place]:
    """Requests in overload, with deadlines."""
    return Case(
        key=place,
        seed=seed,
        requests=partial(hurried, scenario, engine, seed),
        engine=engine,
        contenders=[Contender.of(name) for name in SIDES],
    )


def hurried(scenario: Scenario, engine: EngineModel, seed: int) -> Workload:
    """A seed's requests at `LOAD`, each due after `SLACK` times what it takes alone."""
    workload = scenario.workload(LOAD * saturated(scenario, engine, seed), seed)
    return replace(workload, deadline_s=SLACK * unloaded_s(workload, engine))


def served(run: Run, most_judged: int) -> Served:
    """The run in numbers; a part of what we refused is judged."""
    workload = run.workload
    found = Served(
        measures=measures_of(run),
        goodput_s=goodput_s(workload, run.outcomes),
        unloaded_s=float(workload.deadline_s.mean()) / SLACK,
    )
    if run.contender.name != OURS:
        return found
    refused = np.flatnonzero(run.outcomes.gave_up)
    judged = np.random.default_rng(run.case.seed).permutation(refused)[:most_judged]
    wrong, wrong_in_order = (
        sum(meets(place, workload, run.case.engine, let_in) for place in judged.tolist())
        for let_in in (hidden, kept)
    )
    return msgspec.structs.replace(
        found,
        refused=len(refused),
        judged=len(judged),
        wrong=wrong,
        wrong_in_order=wrong_in_order,
    )


def unloaded_s(workload: Workload, engine: EngineModel) -> Floats:
    """What each answer takes with the engine to itself: one comes long after the other, (n,)."""
    longest = workload.prompt_tokens.max() + workload.generation_tokens.max()
    apart_s = 2 * engine.cost.run_seconds(1, float(longest), int(longest)) + 10.0
    alone = workload.unhurried().arriving(apart_s * np.arange(len(workload), dtype=np.float64))
    found: Floats = replayed(Contender.of(FCFS), alone, engine).finished_s - alone.arrived_s
    return found


def in_time(workload: Workload, outcomes: Outcomes) -> Bools:
    """Which were answered within their deadline, (n,)."""
    met: Bools = outcomes.finished_s - workload.arrived_s <= workload.deadline_s
    return met


def goodput_s(workload: Workload, outcomes: Outcomes) -> float:
    """Answers in time for each second in which requests arrived: a long drain counts for nobody."""
    return float(in_time(workload, outcomes).sum() / workload.arrived_s[-1])


def hidden(workload: Workload, place: int) -> Workload:
    """The workload as if a request had no deadline: nothing is refused, nothing goes first."""
    deadlines_s = workload.deadline_s.copy()
    deadlines_s[place] = np.nan
    return replace(workload, deadline_s=deadlines_s)


def kept(workload: Workload, place: int) -> Workload:
    """The workload as if a request might be of one token: its deadline tells its order alone.

    It looks a little shorter for it, which does it no harm.
    """
    quantiles = workload.quantiles.copy()
    quantiles[place, 0] = 1.0
    return replace(workload, quantiles=quantiles)


def meets(place: int, workload: Workload, engine: EngineModel, let_in: LetIn) -> bool:
    """Whether a request meets its deadline where it is let in.

    Everybody else is treated as before; who arrives after its deadline has no say in it.
    """
    due_s = workload.arrived_s[place] + workload.deadline_s[place]
    before = int(np.searchsorted(workload.arrived_s, due_s, side="right"))
    outcomes = replayed(Contender.of(OURS), let_in(workload, place).take(slice(before)), engine)
    return bool(outcomes.finished_s[place] <= due_s)


def judged_each(judged: int, seeds: int) -> int:
    """Refusals to judge for each seed."""
    return ceil(judged / seeds)
