"""Policies beside each other on the same requests: every policy, at every load, for every seed."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from multiprocessing import get_context
from typing import Final, TypeAlias

import numpy as np
from msgspec import Struct

from gateway.errors import InvalidRequest
from gateway.replay.costs import EngineModel
from gateway.replay.course import Course, course
from gateway.replay.estimate import Estimate, estimate
from gateway.replay.load import saturated_rate_s
from gateway.replay.measures import SCALARS, Measures, measure
from gateway.replay.nodes import replay_on
from gateway.replay.predictions import predicted
from gateway.replay.scenario import Scenario
from gateway.replay.workload import Floats
from gateway.scheduling.policies import NAMES, Options, PolicyName, build_policy

ORACLE: Final = "oracle-"
FIRST_COME: Final = "fcfs"
DEFAULT: Final = ("fcfs", "sjf", "hrrn", "lmaas", "oracle-lmaas")
CONTENDERS: Final = (*NAMES, *(ORACLE + name for name in NAMES))

Told: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is compared. `loads` are shares of `fcfs`'s saturated rate; empty: arrivals as they are.

    `engines` are fed in turn, and the load is of all of them. Each seed has arrivals, lengths and
    predictions of its own, the same for every policy.
    """

    scenario: Scenario
    engine: EngineModel
    policies: Sequence[str] = DEFAULT
    loads: Sequence[float] = ()
    seeds: int = 1
    engines: int = 1
    options: Options = field(default_factory=Options)

    @property
    def pages(self) -> int:
        """KV pages of all engines."""
        return self.engines * self.engine.shape.pages


class Row(Struct, frozen=True, kw_only=True):
    """A policy at a load: means over the seeds. `load` is None for arrivals as they are."""

    policy: str
    load: float | None
    rate_s: float
    measures: dict[str, Estimate]
    deciles_s: list[Estimate]
    served: dict[str, Estimate]
    tenants_s: dict[str, Estimate]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Every policy's row at every load, and of the first seed how each run went over time.

    `saturated_rate_s` is what loads are shares of, for all engines; None without loads.
    """

    rows: list[Row]
    courses: dict[tuple[str, float | None], Course]
    saturated_rate_s: float | None


@dataclass(frozen=True)
class _Run:
    """One policy on one workload."""

    policy: str
    load: float | None
    seed: int
    rate_s: float
    measures: Measures
    course: Course | None


def parted(contender: str) -> tuple[PolicyName, bool]:
    """The policy, and whether it is told true lengths. InvalidRequest says which there are."""
    bare = contender.removeprefix(ORACLE)
    for name in NAMES:
        if name == bare:
            return name, bare != contender
    raise InvalidRequest(f"there is no policy {contender}; known are {', '.join(CONTENDERS)}")


def compare(plan: Plan, told: Told, jobs: int = 1) -> Comparison:
    """Run everything, in so many processes; `told` hears a line as each run ends."""
    for contender in plan.policies:
        parted(contender)
    rate_s = _saturated_rate_s(plan) if plan.loads else None
    if rate_s is not None:
        told(f"fcfs, saturated: {rate_s:.3g} requests/s")
    rates: dict[float | None, float | None] = {None: None}
    if rate_s is not None:
        rates = {load: load * rate_s for load in plan.loads}
    runs = [run for group in _groups(plan, rates, told, jobs) for run in group]
    return Comparison(
        rows=[
            _row([run for run in runs if (run.policy, run.load) == (policy, load)])
            for load, policy in product(rates, plan.policies)
        ],
        courses={(run.policy, run.load): run.course for run in runs if run.course is not None},
        saturated_rate_s=rate_s,
    )


def _saturated_rate_s(plan: Plan) -> float:
    """Of all engines together; arrivals do not matter, so any rate makes the workload."""
    workload = plan.scenario.workload(1.0, seed=0)
    return plan.engines * saturated_rate_s(workload, plan.engine, plan.options)


def _groups(
    plan: Plan, rates: dict[float | None, float | None], told: Told, jobs: int
) -> Iterator[list[_Run]]:
    """The runs of each load and seed."""
    loads = [(load, rates[load], seed) for load, seed in product(rates, range(plan.seeds))]
    if jobs == 1:
        yield from (_group(plan, told, *each) for each in loads)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for runs in pool.map(partial(_group, plan, _nobody), *zip(*loads, strict=True)):
            for run in runs:
                told(_line(run))
            yield runs


def _group(
    plan: Plan, told: Told, load: float | None, rate_s: float | None, seed: int
) -> list[_Run]:
    """Every policy on the same requests; `fcfs` first, for the others' delay is told from its."""
    workload = plan.scenario.workload(rate_s, seed)
    first_come_s: Floats | None = None
    runs = []
    for contender in sorted(plan.policies, key=lambda name: name != FIRST_COME):
        name, oracle = parted(contender)
        chance = np.random.default_rng(seed)
        informed = predicted(workload, "oracle", chance) if oracle else workload
        outcomes = replay_on(
            plan.engines, informed, partial(build_policy, name, plan.options), plan.engine
        )
        if contender == FIRST_COME:
            first_come_s = outcomes.dispatched_s
        measures = measure(workload, outcomes, plan.pages, first_come_s)
        how = course(workload, outcomes, plan.pages) if seed == 0 else None
        runs.append(_Run(contender, load, seed, workload.rate_s, measures, how))
        told(_line(runs[-1]))
    return runs


def _row(runs: Sequence[_Run]) -> Row:
    """The runs of one policy at one load as one row."""
    measures = [run.measures for run in runs]
    tenants = measures[0].served
    return Row(
        policy=runs[0].policy,
        load=runs[0].load,
        rate_s=float(np.mean([run.rate_s for run in runs])),
        measures={
            name: estimate([float(getattr(each, name)) for each in measures]) for name in SCALARS
        },
        deciles_s=[
            estimate(values) for values in zip(*(m.deciles_s for m in measures), strict=True)
        ],
        served={name: estimate([each.served[name] for each in measures]) for name in tenants},
        tenants_s={name: estimate([each.tenants_s[name] for each in measures]) for name in tenants},
    )


def _line(run: _Run) -> str:
    at = "" if run.load is None else f" at load {run.load:g}"
    at += f", seed {run.seed + 1}"
    return f"{run.policy}{at}: mean {run.measures.mean_s:.2f} s, p99 {run.measures.p99_s:.2f} s"


def _nobody(line: str) -> None:
    """Tell nobody."""
