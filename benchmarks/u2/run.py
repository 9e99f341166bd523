"""U2: response times with 2 to 64 engines behind one queue, against other routers, replayed."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Final

from benchmarks.harness.contenders import OUR_ORACLE, OURS, SEEDS, saturated_rate
from benchmarks.harness.report import Report
from benchmarks.harness.text_requests import text_requests
from benchmarks.u2.cells import (
    REQUESTS,
    TEXTS,
    TRACE,
    Cell,
    Fleet,
    case,
    engine_for,
    fleets,
    scenario,
    with_instructions,
)
from benchmarks.u2.rows import STATISTICS, over_best, rows_of, targets
from gateway.replay.comparison import Case, compare, map_in_processes, measures_of
from gateway.replay.cost.model import EngineModel
from gateway.replay.workload.trace import read_trace
from gateway.replay.workload.workload import Workload

QUICK_SHARE: Final = 4  # of the requests, in a quick look


def run(
    data: Path, trace: Path | None, engine: EngineModel, *, quick: bool, only: str, jobs: int
) -> None:
    """Replay all fleets with `SEEDS` seeds each; the result is written after each run."""
    look = quick or bool(only) or trace is None
    report = Report("U2", look=look)
    if trace is None:
        report.say("no --trace: the arrival trace is left out, and the run counts as a quick look")
    wanted = [fleet for fleet in fleets(only) if fleet.source == TEXTS or trace is not None]
    sources: dict[str, Workload] = {}
    if any(fleet.source == TRACE for fleet in wanted) and trace is not None:
        sources[TRACE] = read_trace(trace)
    if any(fleet.source == TEXTS for fleet in wanted):
        sources[TEXTS] = with_instructions(text_requests(data, jobs, report.say), data)
    cells: list[Cell] = []
    for done in compare(_cases(wanted, sources, engine, jobs, quick=quick), measures_of, jobs):
        cells.append(done)
        report.say(_line(done))
        report.write(list(rows_of(cells)), list(targets(cells)))
    report.conclude(list(rows_of(cells)), list(targets(cells)))


def _cases(
    wanted: Sequence[Fleet],
    sources: dict[str, Workload],
    engine: EngineModel,
    jobs: int,
    *,
    quick: bool,
) -> list[Case[Fleet]]:
    """A case for each fleet and seed."""
    engines = {name: engine_for(source, engine) for name, source in sources.items()}
    fitting = {
        name: source.within(engines[name].shape.max_sequence_tokens)
        for name, source in sources.items()
    }
    each = list(product(wanted, range(SEEDS)))
    scenarios = [
        scenario(
            fleet.source,
            fitting[fleet.source],
            REQUESTS[fleet.engines] // (QUICK_SHARE if quick else 1),
            seed,
            SEEDS,
        )
        for fleet, seed in each
    ]
    sized = [engines[fleet.source] for fleet, _ in each]
    rates_s = map_in_processes(jobs, saturated_rate, scenarios, sized, [seed for _, seed in each])
    return [
        case(fleet, whole, own, rate_s, seed)
        for (fleet, seed), whole, own, rate_s in zip(each, scenarios, sized, rates_s, strict=True)
    ]


def _line(done: Cell) -> str:
    ours, oracle = done.measured[OURS], done.measured[OUR_ORACLE]
    shown = ", ".join(
        f"{statistic} {over_best([done], 'fcfs', statistic).mean:.3f} of the best with fcfs, "
        f"{over_best([done], OURS, statistic).mean:.3f} with lmaas"
        for statistic in STATISTICS
    )
    return (
        f"{done.key}, seed {done.seed}: {ours.mean_s:.2f}/{ours.p99_s:.2f} s, oracle "
        f"{oracle.mean_s:.2f}/{oracle.p99_s:.2f}; {shown}; {ours.decision_us:.0f} µs a decision"
    )
