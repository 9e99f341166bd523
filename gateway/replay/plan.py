"""The comparison of `lmaas replay`: every policy at every load, averaged over seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Final, TypeAlias

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from gateway.replay.comparison import Case, Cell, Contender, ReplayRun, compare, measures_of
from gateway.replay.cost.model import EngineModel
from gateway.replay.measure.confidence import ConfidenceInterval, confidence_interval
from gateway.replay.measure.job import (
    JOB_MEASURES,
    TIMES,
    InteractiveTimes,
    JobMeasures,
    interactive_times,
    job_measures,
)
from gateway.replay.measure.metrics import SCALARS, Measures
from gateway.replay.measure.time_series import TimeSeries, time_series
from gateway.replay.routers import RouterName
from gateway.replay.saturation import saturated_rate_s
from gateway.replay.workload.job import ReplayJob
from gateway.replay.workload.scenario import Scenario
from gateway.scheduling.policy import Options

DEFAULT_POLICIES: Final = ("fcfs", "sjf", "hrrn", "lmaas", "oracle-lmaas")

OfferedLoad: TypeAlias = float | None  # None for unscaled arrivals
RunMeasurement: TypeAlias = tuple[Measures, TimeSeries | None, InteractiveTimes]
JobMeasurement: TypeAlias = tuple[InteractiveTimes, JobMeasures]
ReportProgress: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ReplayPlan:
    """What is compared. `loads` are relative to `fcfs`'s saturated rate; without, arrivals stay.

    `router` brings requests to the engines, one for each of `speeds`, which are relative to
    `engine`; the load is that of all engines together. Each seed has
    its own arrivals, lengths and predictions, which are the same for every policy. With a `job`,
    every run is repeated next to its lines.
    """

    scenario: Scenario
    engine: EngineModel
    policies: Sequence[str] = DEFAULT_POLICIES
    loads: Sequence[float] = ()
    seeds: int = 1
    speeds: Sequence[float] = (1.0,)
    router: RouterName = "round-robin"
    options: Options = field(default_factory=Options)
    job: ReplayJob | None = None


class PolicyRow(Struct, frozen=True, kw_only=True):
    """A policy at a load: means over the seeds. `load` is None for unscaled arrivals."""

    policy: str
    load: float | None
    rate_s: float
    measures: dict[str, ConfidenceInterval]
    deciles_s: list[ConfidenceInterval]
    served: dict[str, ConfidenceInterval]
    tenants_s: dict[str, ConfidenceInterval]


class JobRow(Struct, frozen=True, kw_only=True):
    """A policy at a load with the job: means over the seeds.

    `without` and `with_job` are the times of interactive requests, `job` are measures of the job.
    """

    policy: str
    load: float | None
    without: dict[str, ConfidenceInterval]
    with_job: dict[str, ConfidenceInterval]
    job: dict[str, ConfidenceInterval]


@dataclass(frozen=True, kw_only=True)
class PolicyComparison:
    """A row for every policy at every load, and time series of the runs with the first seed.

    `saturated_rate_s` is the rate of load 1, for all engines together; None without loads.
    `job_rows` are those of the runs with the job, if there is one.
    """

    rows: list[PolicyRow]
    job_rows: list[JobRow]
    time_series: dict[tuple[str, float | None], TimeSeries]
    saturated_rate_s: float | None


def compare_policies(plan: ReplayPlan, progress: ReportProgress, jobs: int = 1) -> PolicyComparison:
    """Run the plan, `jobs` cases at once; `progress` gets a line for each finished run.

    InvalidRequest for an unknown policy.
    """
    contenders = [
        replace(Contender.of(name, plan.options), router=plan.router) for name in plan.policies
    ]
    saturated_s: float | None = None
    rates: dict[OfferedLoad, float | None] = {None: None}
    if plan.loads:
        any_rate = plan.scenario.workload(1.0, seed=0)  # arrival times do not matter here
        saturated_s = sum(plan.speeds) * saturated_rate_s(any_rate, plan.engine, plan.options)
        progress(f"fcfs, saturated: {saturated_s:.3g} requests/s")
        rates = {load: load * saturated_s for load in plan.loads}
    cells: list[Cell[OfferedLoad, RunMeasurement]] = []
    hook = partial(_measured, progress=progress if jobs == 1 else None)
    for cell in compare(_cases(plan, contenders, rates), hook, jobs):
        cells.append(cell)
        if jobs > 1:
            for name, (measures, *_) in cell.measured.items():
                progress(_line(name, cell.key, cell.seed, measures))
    return PolicyComparison(
        rows=[
            _row(policy, [cell for cell in cells if cell.key == load])
            for load, policy in product(rates, plan.policies)
        ],
        job_rows=_job_rows(plan, contenders, rates, cells, progress, jobs),
        time_series={
            (name, cell.key): series
            for cell in cells
            for name, (_, series, _) in cell.measured.items()
            if series is not None
        },
        saturated_rate_s=saturated_s,
    )


def _job_rows(
    plan: ReplayPlan,
    contenders: list[Contender],
    rates: dict[OfferedLoad, float | None],
    without: list[Cell[OfferedLoad, RunMeasurement]],
    progress: ReportProgress,
    jobs: int,
) -> list[JobRow]:
    """A row for every policy at every load with the job; `without` are the cells without it."""
    if plan.job is None:
        return []
    cells: list[Cell[OfferedLoad, JobMeasurement]] = []
    for cell in compare(_cases(plan, contenders, rates, plan.job), _measured_job, jobs):
        cells.append(cell)
        for name, (times, measures) in cell.measured.items():
            progress(_job_line(name, cell.key, cell.seed, times, measures))
    rows = []
    for load, policy in product(rates, plan.policies):
        found = [cell.measured[policy] for cell in cells if cell.key == load]
        before = [cell.measured[policy][2] for cell in without if cell.key == load]
        rows.append(
            JobRow(
                policy=policy,
                load=load,
                without=_means(before, TIMES),
                with_job=_means([times for times, _ in found], TIMES),
                job=_means([measures for _, measures in found], JOB_MEASURES),
            )
        )
    return rows


def _means(measured: Sequence[Struct], names: Sequence[str]) -> dict[str, ConfidenceInterval]:
    return {
        name: confidence_interval([float(getattr(each, name)) for each in measured])
        for name in names
    }


def _cases(
    plan: ReplayPlan,
    contenders: list[Contender],
    rates: dict[OfferedLoad, float | None],
    job: ReplayJob | None = None,
) -> list[Case[OfferedLoad]]:
    """A case for each load and seed; `rates` has the arrivals a second at each load."""
    return [
        Case(
            key=load,
            seed=seed,
            requests=partial(plan.scenario.workload, rate_s, seed, job),
            engine=plan.engine,
            contenders=contenders,
            speeds=plan.speeds,
        )
        for (load, rate_s), seed in product(rates.items(), range(plan.seeds))
    ]


def _measured(run: ReplayRun, progress: ReportProgress | None) -> RunMeasurement:
    """The measures of a run, and with the first seed its time series; `progress` gets a line.

    In another process, where a line would be lost, `progress` is None.
    """
    measures, case = measures_of(run), run.case
    if progress is not None:
        progress(_line(run.contender.name, case.key, case.seed, measures))
    series = None if case.seed else time_series(run.workload, run.results, case.pages)
    return measures, series, interactive_times(run.workload, run.results)


def _measured_job(run: ReplayRun) -> JobMeasurement:
    return interactive_times(run.workload, run.results), job_measures(run.workload, run.results)


def _row(policy: str, cells: Sequence[Cell[OfferedLoad, RunMeasurement]]) -> PolicyRow:
    """The row of a policy at the load of these cells."""
    measures = [cell.measured[policy][0] for cell in cells]
    tenants = measures[0].served
    return PolicyRow(
        policy=policy,
        load=cells[0].key,
        rate_s=float(np.mean([cell.rate_s for cell in cells])),
        measures={
            name: confidence_interval([float(getattr(each, name)) for each in measures])
            for name in SCALARS
        },
        deciles_s=[
            confidence_interval(values)
            for values in zip(*(m.deciles_s for m in measures), strict=True)
        ],
        served={
            name: confidence_interval([each.served[name] for each in measures]) for name in tenants
        },
        tenants_s={
            name: confidence_interval([each.tenants_s[name] for each in measures])
            for name in tenants
        },
    )


def _job_line(
    policy: str, load: OfferedLoad, seed: int, times: InteractiveTimes, job: JobMeasures
) -> str:
    at = "" if load is None else f" at load {load:g}"
    return (
        f"{policy}{at}, seed {seed + 1}, with the job: TTFT p99 {times.ttft_p99_s:.2f} s, job done "
        f"after {job.makespan_s:,.0f} s"
    )


def _line(policy: str, load: OfferedLoad, seed: int, measures: Measures) -> str:
    at = "" if load is None else f" at load {load:g}"
    at += f", seed {seed + 1}"
    return f"{policy}{at}: mean {measures.mean_s:.2f} s, p99 {measures.p99_s:.2f} s"
