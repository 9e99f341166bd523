"""S2: order and admission on an engine that batches by iteration, from half load to overload.

Each cell is a load of a regime for one seed: all sides get the same requests at the same times,
the same predictions (but for the oracles and for shuffled labels) and, but for the order, the same
admission. The load is in parts of what FCFS gets through of these very requests, saturated.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Final

from benchmarks.places import CACHE, PLOTS
from benchmarks.report import Report, Row
from benchmarks.s2_cells import (
    POOLS,
    REQUESTS,
    SEEDS,
    TEXTS,
    TRACE,
    Cell,
    Regime,
    Task,
    cell,
    loads_of,
    regimes,
    saturated,
    scenario,
)
from benchmarks.s2_plots import draw_deciles, draw_loads
from benchmarks.s2_rows import points, rows_of, source_row
from benchmarks.s2_targets import targets
from benchmarks.sides import OUR_ORACLE, OURS, Workers, pool_of
from benchmarks.text_requests import text_requests
from gateway.replay.costs import EngineModel
from gateway.replay.trace import read_trace
from gateway.replay.workload import Workload

QUICK_REQUESTS: Final = 2_000
QUICK_LOADS: Final = (0.7, 0.9, 1.1)


def run(
    data: Path, trace: Path | None, engine: EngineModel, *, quick: bool, only: str, jobs: int
) -> None:
    """Replay every cell; the result is written after each regime."""
    look = quick or bool(only) or trace is None
    report = Report("S2", look=look)
    if trace is None:
        report.say("no --trace: the arrival trace is left out, and this is a mere look")
    whole = {**_texts(data, report, jobs), **({TRACE: read_trace(trace)} if trace else {})}
    sources = {name: _fitting(workload, engine) for name, workload in whole.items()}
    rows: list[Row] = [
        source_row(name, whole[name], workload, engine) for name, workload in sources.items()
    ]
    requests = QUICK_REQUESTS if quick else REQUESTS
    cells: list[Cell] = []
    with Workers(jobs) as workers:
        for regime in regimes(list(sources), only):
            loads = QUICK_LOADS if quick else loads_of(regime)
            tasks = _tasks(regime, sources[regime.source], engine, requests)
            rates = list(workers.each(saturated, tasks))
            told = ", ".join(f"{rate_s:.4g}" for rate_s in rates)
            report.say(f"{regime}: FCFS saturated at {told} requests/s")
            for done in workers.each(cell, _loaded(tasks, rates, loads)):
                cells.append(done)
                report.say(_line(done))
            found = points(cells)
            report.write([*rows, *rows_of(found)], list(targets(found)))
    found = points(cells)
    folder = CACHE / "looks" if look else PLOTS
    draw_loads(found, folder)
    draw_deciles(found, folder)
    report.conclude([*rows, *rows_of(found)], list(targets(found)))


def _texts(data: Path, report: Report, threads: int) -> dict[str, Workload]:
    """Texts of proportional and of open apps, mixed."""
    return {TEXTS: text_requests(data, threads, report.say)}


def _fitting(workload: Workload, engine: EngineModel) -> Workload:
    """What fits the smallest pool alone: the same requests for every pool."""
    return workload.within(pool_of(min(POOLS.values()), engine, workload).shape.most_tokens)


def _tasks(regime: Regime, workload: Workload, engine: EngineModel, requests: int) -> list[Task]:
    """The regime's requests for each seed, not yet at any load."""
    pool = pool_of(POOLS[regime.pool], engine, workload)
    return [
        Task(
            regime=regime,
            load=1.0,
            seed=seed,
            rate_s=1.0,
            scenario=scenario(workload, regime, requests, seed, SEEDS),
            engine=pool,
        )
        for seed in range(SEEDS)
    ]


def _loaded(tasks: list[Task], rates: list[float], loads: tuple[float, ...]) -> Iterator[Task]:
    for load, (task, rate_s) in product(loads, zip(tasks, rates, strict=True)):
        yield Task(
            regime=task.regime,
            load=load,
            seed=task.seed,
            rate_s=load * rate_s,
            scenario=task.scenario,
            engine=task.engine,
        )


def _line(done: Cell) -> str:
    measures = done.measures
    told = ", ".join(
        f"{name} {each.mean_s:.2f}/{each.p99_s:.2f}"
        for name, each in measures.items()
        if name in {"fcfs", "sjf", OURS, OUR_ORACLE, "shuffled", "mean-first"}
    )
    return f"{done.regime} at {done.load:g}, seed {done.seed}: mean/p99 s {told}"
