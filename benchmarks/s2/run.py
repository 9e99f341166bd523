"""S2: order and admission with continuous batching, from half load to overload.

Each cell is a regime at a load with one seed. All contenders get the same requests at the same
times, with the same predictions (except oracles and shuffled predictions) and the same admission.
Load 1 is FCFS's saturated rate on the same requests.
"""

from itertools import repeat
from pathlib import Path
from typing import Final

from benchmarks.harness.contenders import (
    OUR_ORACLE,
    OURS,
    POOLS,
    SEEDS,
    fitting_smallest_pool,
    pool_of,
    saturated_rate,
)
from benchmarks.harness.report import Report, Row
from benchmarks.harness.text_requests import of_one_app, text_requests
from benchmarks.s2.cells import (
    REQUESTS,
    TEXTS,
    TRACE,
    Cell,
    cases,
    loads_of,
    regimes,
    scenario,
)
from benchmarks.s2.plots import draw_deciles, draw_loads
from benchmarks.s2.rows import points, rows_of, source_row
from benchmarks.s2.targets import targets
from gateway.replay.comparison import compare, map_in_processes, measures_of
from gateway.replay.cost.model import EngineModel
from gateway.replay.workload.trace import read_trace

QUICK_REQUESTS: Final = 2_000
QUICK_LOADS: Final = (0.7, 0.9, 1.1)


def run(
    data: Path, trace: Path | None, engine: EngineModel, *, quick: bool, only: str, jobs: int
) -> None:
    """Replay all cells; the result is written after each regime."""
    look = quick or bool(only) or trace is None
    report = Report("S2", look=look)
    if trace is None:
        report.say("no --trace: the arrival trace is left out, and the run counts as a quick look")
    whole = {TEXTS: of_one_app(text_requests(data, jobs, report.say))}  # all kinds of texts
    if trace is not None:
        whole[TRACE] = read_trace(trace)
    sources = {name: fitting_smallest_pool(workload, engine) for name, workload in whole.items()}
    rows: list[Row] = [
        source_row(name, whole[name], workload, engine) for name, workload in sources.items()
    ]
    requests = QUICK_REQUESTS if quick else REQUESTS
    cells: list[Cell] = []
    for regime in regimes(list(sources), only):
        source = sources[regime.source]
        pool = pool_of(POOLS[regime.pool], engine, source)
        scenarios = [scenario(source, regime, requests, seed, SEEDS) for seed in range(SEEDS)]
        rates_s = list(
            map_in_processes(jobs, saturated_rate, scenarios, repeat(pool), range(SEEDS))
        )
        shown = ", ".join(f"{rate_s:.4g}" for rate_s in rates_s)
        report.say(f"{regime}: FCFS saturated at {shown} requests/s")
        loads = QUICK_LOADS if quick else loads_of(regime)
        for done in compare(cases(regime, scenarios, rates_s, pool, loads), measures_of, jobs):
            cells.append(done)
            report.say(_line(done))
        found = points(cells)
        report.write([*rows, *rows_of(found)], list(targets(found)))
    found = points(cells)
    draw_loads(found, report.plots)
    draw_deciles(found, report.plots)
    report.conclude([*rows, *rows_of(found)], list(targets(found)))


def _line(done: Cell) -> str:
    regime, load = done.key
    shown = ", ".join(
        f"{name} {each.mean_s:.2f}/{each.p99_s:.2f}"
        for name, each in done.measured.items()
        if name in {"fcfs", "sjf", OURS, OUR_ORACLE, "shuffled", "mean-first"}
    )
    return f"{regime} at {load:g}, seed {done.seed}: mean/p99 s {shown}"
