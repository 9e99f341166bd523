"""What `lmaas replay` compares: policies at every load, for every seed; a row for each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Final, TypeAlias

import numpy as np
from msgspec import Struct

from gateway.replay.comparison import Case, Cell, Contender, Run, compare, measures_of
from gateway.replay.cost.model import EngineModel
from gateway.replay.measure.confidence import ConfidenceInterval, estimate
from gateway.replay.measure.metrics import SCALARS, Measures
from gateway.replay.measure.time_series import Course, course
from gateway.replay.saturation import saturated_rate_s
from gateway.replay.workload.scenario import Scenario
from gateway.scheduling.policy import Options

DEFAULT: Final = ("fcfs", "sjf", "hrrn", "lmaas", "oracle-lmaas")

Load: TypeAlias = float | None  # None for arrivals as they are
Measured: TypeAlias = tuple[Measures, Course | None]
Say: TypeAlias = Callable[[str], None]


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


class Row(Struct, frozen=True, kw_only=True):
    """A policy at a load: means over the seeds. `load` is None for arrivals as they are."""

    policy: str
    load: float | None
    rate_s: float
    measures: dict[str, ConfidenceInterval]
    deciles_s: list[ConfidenceInterval]
    served: dict[str, ConfidenceInterval]
    tenants_s: dict[str, ConfidenceInterval]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Every policy's row at every load, and of the first seed how each run went over time.

    `saturated_rate_s` is what loads are shares of, for all engines; None without loads.
    """

    rows: list[Row]
    courses: dict[tuple[str, float | None], Course]
    saturated_rate_s: float | None


def compare_policies(plan: Plan, say: Say, jobs: int = 1) -> Comparison:
    """Run the plan, `jobs` loads and seeds at once; `say` gets a line for each run that ended.

    InvalidRequest for an unknown policy.
    """
    contenders = [Contender.of(name, plan.options) for name in plan.policies]
    saturated_s: float | None = None
    rates: dict[Load, float | None] = {None: None}
    if plan.loads:
        any_rate = plan.scenario.workload(1.0, seed=0)  # saturated, arrivals do not matter
        saturated_s = plan.engines * saturated_rate_s(any_rate, plan.engine, plan.options)
        say(f"fcfs, saturated: {saturated_s:.3g} requests/s")
        rates = {load: load * saturated_s for load in plan.loads}
    cells: list[Cell[Load, Measured]] = []
    hook = partial(_measured, say=say if jobs == 1 else None)
    for cell in compare(_cases(plan, contenders, rates), hook, jobs):
        cells.append(cell)
        if jobs > 1:
            for name, (measures, _) in cell.measured.items():
                say(_line(name, cell.key, cell.seed, measures))
    return Comparison(
        rows=[
            _row(policy, [cell for cell in cells if cell.key == load])
            for load, policy in product(rates, plan.policies)
        ],
        courses={
            (name, cell.key): how
            for cell in cells
            for name, (_, how) in cell.measured.items()
            if how is not None
        },
        saturated_rate_s=saturated_s,
    )


def _cases(
    plan: Plan, contenders: list[Contender], rates: dict[Load, float | None]
) -> list[Case[Load]]:
    """One for each load and seed; `rates` are the arrivals a second at each load."""
    return [
        Case(
            key=load,
            seed=seed,
            requests=partial(plan.scenario.workload, rate_s, seed),
            engine=plan.engine,
            contenders=contenders,
            engines=plan.engines,
        )
        for (load, rate_s), seed in product(rates.items(), range(plan.seeds))
    ]


def _measured(run: Run, say: Say | None) -> Measured:
    """The run in numbers; of the first seed, how it went over time too. `say` gets a line.

    What is said in another process is lost: there `say` is None.
    """
    measures, case = measures_of(run), run.case
    if say is not None:
        say(_line(run.contender.name, case.key, case.seed, measures))
    how = None if case.seed else course(run.workload, run.outcomes, case.pages)
    return measures, how


def _row(policy: str, cells: Sequence[Cell[Load, Measured]]) -> Row:
    """One policy at the load of these cells."""
    measures = [cell.measured[policy][0] for cell in cells]
    tenants = measures[0].served
    return Row(
        policy=policy,
        load=cells[0].key,
        rate_s=float(np.mean([cell.rate_s for cell in cells])),
        measures={
            name: estimate([float(getattr(each, name)) for each in measures]) for name in SCALARS
        },
        deciles_s=[
            estimate(values) for values in zip(*(m.deciles_s for m in measures), strict=True)
        ],
        served={name: estimate([each.served[name] for each in measures]) for name in tenants},
        tenants_s={name: estimate([each.tenants_s[name] for each in measures]) for name in tenants},
    )


def _line(policy: str, load: Load, seed: int, measures: Measures) -> str:
    at = "" if load is None else f" at load {load:g}"
    at += f", seed {seed + 1}"
    return f"{policy}{at}: mean {measures.mean_s:.2f} s, p99 {measures.p99_s:.2f} s"
