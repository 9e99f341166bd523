"""S1: the ladder of Magnus, in replay and live. Each part keeps the rows of the other."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.paths import CACHE, PLOTS
from benchmarks.harness.report import Report, Row
from benchmarks.s1.ladder import LIVE, PARTS, REPLAY
from benchmarks.s1.live_run import run_live
from benchmarks.s1.replay_run import run_replay
from benchmarks.s1.targets import targets

FIGURE = "S1"


def run(data: Path, smollm2: Path, parts: Sequence[str], *, quick: bool, jobs: int) -> None:
    """Measure the parts; the result is written after each step of one."""
    report = Report(FIGURE, look=quick)
    plots = CACHE / "looks" if quick else PLOTS / FIGURE
    kept, _ = report.committed([part for part in PARTS if part not in parts])

    def publish(found: list[Row]) -> None:
        rows = in_order([*kept, *found])
        report.write(rows, targets(rows))

    if REPLAY in parts:
        kept += run_replay(data, report.say, publish, quick=quick, jobs=jobs, plots=plots)
    if LIVE in parts:
        kept += run_live(data, smollm2, report.say, publish, quick=quick, plots=plots)
    rows = in_order(kept)
    report.conclude(rows, targets(rows))


def in_order(rows: Sequence[Row]) -> list[Row]:
    """The rows, part by part."""
    return sorted(rows, key=lambda row: PARTS.index(row["part"]))
