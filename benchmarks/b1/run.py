"""B1: the prompt tokens that prefix groups save, counted in replay and on the real engine.

Each part keeps the rows of the other; the live cells are counted in replay too.
"""

import logging
from collections.abc import Sequence
from typing import Final

import structlog

from benchmarks.b1.live_run import LINES, run_live
from benchmarks.b1.replay_counts import compared, counts_target
from benchmarks.b1.replay_run import run_replay
from benchmarks.harness.report import Report, Row, Target

REPLAY: Final = "replay"
LIVE: Final = "live"
PARTS: Final = (REPLAY, LIVE)


def run(parts: Sequence[str], lines: int, threads: int, *, quick: bool, jobs: int) -> None:
    """Measure these parts; the result is written after each cell. `lines` are those run live."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    report = Report("B1", look=quick or lines != LINES)
    rows, targets = report.committed([part for part in PARTS if part not in parts])

    def publish(more: list[Row], bounds: list[Target]) -> None:
        report.write(*complete([*rows, *more], [*targets, *bounds]))

    if REPLAY in parts:
        found = run_replay(report.say, publish, report.plots, jobs, quick=quick)
        rows, targets = [*rows, *found[0]], [*targets, *found[1]]
    if LIVE in parts:
        found = run_live(report.say, publish, lines, threads)
        rows, targets = [*rows, *found[0]], [*targets, *found[1]]
    report.conclude(*complete(rows, targets))


def complete(rows: list[Row], targets: list[Target]) -> tuple[list[Row], list[Target]]:
    """Both part by part, with the counts of replay compared with the live ones."""
    found = compared(sorted(rows, key=lambda row: PARTS.index(row["part"])))
    bounds = sorted(targets, key=lambda bound: not bound.name.startswith(REPLAY))
    return found, [*bounds, counts_target(found)]
