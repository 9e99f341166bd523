"""U2: response times with 2 to 64 engines behind one queue, against other routers, replayed."""

from pathlib import Path
from typing import Final

from benchmarks.harness.contenders import OUR_ORACLE, OURS
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
from gateway.replay.comparison import Case, compare, measures_of
from gateway.replay.cost.model import EngineModel
from gateway.replay.saturation import saturated_rate_s
from gateway.replay.workload.trace import read_trace
from gateway.replay.workload.workload import Workload
from gateway.scheduling.policy import Options

QUICK_SHARE: Final = 4  # of the requests, in a quick look


def run(
    data: Path, trace: Path | None, engine: EngineModel, *, quick: bool, only: str, jobs: int
) -> None:
    """Replay all fleets; the result is written after each one."""
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
    cases = [_case(fleet, sources[fleet.source], engine, quick=quick) for fleet in wanted]
    cells: list[Cell] = []
    for done in compare(cases, measures_of, jobs):
        cells.append(done)
        report.say(_line(done))
        report.write(list(rows_of(cells)), list(targets(cells)))
    report.conclude(list(rows_of(cells)), list(targets(cells)))


def _case(fleet: Fleet, source: Workload, engine: EngineModel, *, quick: bool) -> Case[Fleet]:
    sized = engine_for(source, engine)
    fitting = source.within(sized.shape.max_sequence_tokens)
    requests = REQUESTS[fleet.engines] // (QUICK_SHARE if quick else 1)
    whole = scenario(fleet.source, fitting, requests)
    rate_s = saturated_rate_s(whole.workload(1.0, 0), sized, Options())
    return case(fleet, whole, sized, rate_s)


def _line(done: Cell) -> str:
    ours, oracle = done.measured[OURS], done.measured[OUR_ORACLE]
    shown = ", ".join(
        f"{statistic} {over_best(done, 'fcfs', statistic):.3f} of the best with fcfs, "
        f"{over_best(done, OURS, statistic):.3f} with lmaas"
        for statistic in STATISTICS
    )
    return (
        f"{done.key}: {ours.mean_s:.2f}/{ours.p99_s:.2f} s, oracle "
        f"{oracle.mean_s:.2f}/{oracle.p99_s:.2f}; {shown}; {ours.decision_us:.0f} µs a decision"
    )
