"""What S5 replays: requests with deadlines in overload, and refused ones again, as if let in."""

from collections.abc import Callable
from dataclasses import replace
from math import ceil
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from benchmarks.sides import FCFS, OURS, replayed, side
from gateway.replay.costs import EngineModel
from gateway.replay.load import saturated_rate_s
from gateway.replay.measures import Measures, measure
from gateway.replay.outcomes import Outcomes
from gateway.replay.scenario import Scenario
from gateway.replay.workload import Floats, Workload
from gateway.scheduling.policies import Options

REQUESTS: Final = 3_000
SEEDS: Final = 3
LOAD: Final = 1.3
SLACK: Final = 3.0  # times what an answer takes with the engine to itself
JUDGED: Final = 210  # refused requests that are let in, over all seeds
POOLS: Final = {"tight": 8, "roomy": 64}  # mean requests that fit
SIDES: Final = (FCFS, "sjf", "hrrn", OURS)

LetIn: TypeAlias = Callable[[Workload, int], Workload]


class Task(Struct, frozen=True, kw_only=True):
    """Requests and a pool, for one seed."""

    source: str
    pool: str
    seed: int
    scenario: Scenario
    engine: EngineModel
    judged: int


class Cell(Struct, frozen=True, kw_only=True):
    """What every side came to: measures, and answers in time for each second of arrivals.

    Of our refusals `judged` were let in, each alone and twice: `wrong` of these met their deadline
    with nobody knowing it, `wrong_in_order` as it is, but for the refusal.
    """

    source: str
    pool: str
    seed: int
    rate_s: float
    unloaded_s: float
    measures: dict[str, Measures]
    goodput_s: dict[str, float]
    refused: int
    judged: int
    wrong: int
    wrong_in_order: int


def cell(task: Task) -> Cell:
    """Replay a cell, and judge a part of what was refused."""
    drawn = task.scenario.workload(1.0, task.seed)
    rate_s = LOAD * saturated_rate_s(drawn, task.engine, Options())
    workload = task.scenario.workload(rate_s, task.seed)
    alone_s = unloaded_s(workload, task.engine)
    workload = replace(workload, deadline_s=SLACK * alone_s)
    found = {name: replayed(side(name), workload, task.engine, task.seed) for name in SIDES}
    pages = task.engine.shape.pages
    first_come_s = found[FCFS].dispatched_s
    refused = np.flatnonzero(found[OURS].gave_up)
    judged = np.random.default_rng(task.seed).permutation(refused)[: task.judged]
    wrong, wrong_in_order = (
        sum(meets(place, workload, task.engine, let_in) for place in judged.tolist())
        for let_in in (hidden, kept)
    )
    return Cell(
        source=task.source,
        pool=task.pool,
        seed=task.seed,
        rate_s=workload.rate_s,
        unloaded_s=float(alone_s.mean()),
        measures={
            name: measure(workload, outcomes, pages, first_come_s)
            for name, outcomes in found.items()
        },
        goodput_s={name: goodput_s(workload, outcomes) for name, outcomes in found.items()},
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
    found: Floats = replayed(side(FCFS), alone, engine, seed=0).finished_s - alone.arrived_s
    return found


def in_time(workload: Workload, outcomes: Outcomes) -> npt.NDArray[np.bool_]:
    """Which were answered within their deadline, (n,)."""
    met: npt.NDArray[np.bool_] = outcomes.finished_s - workload.arrived_s <= workload.deadline_s
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
    outcomes = replayed(side(OURS), let_in(workload, place).take(slice(before)), engine, seed=0)
    return bool(outcomes.finished_s[place] <= due_s)


def judged_each(judged: int, seeds: int) -> int:
    """Refusals to judge for each seed."""
    return ceil(judged / seeds)
