"""B1: the prompt tokens that prefix groups save, counted in replay and on the real engine.

The job of BatchLLM's benchmark (arXiv 2412.03594): lines in groups, 2,000 shared tokens, 200 of
their own and 100 of answer, shuffled.
"""

import logging
from collections.abc import Sequence
from typing import Final

import structlog

from benchmarks.b1.live_run import LINES, run_live
from benchmarks.b1.replay_run import run_replay
from benchmarks.harness.report import Report, Row, Target

REPLAY: Final = "replay"
LIVE: Final = "live"
PARTS: Final = (REPLAY, LIVE)


def run(parts: Sequence[str], lines: int, threads: int, *, quick: bool, jobs: int) -> None:
    """Measure these parts; the result is written after each cell. `lines` are those run live."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    report = Report("B1", look=quick or lines != LINES or set(parts) != set(PARTS))
    rows: list[Row] = []
    targets: list[Target] = []

    def publish(more: list[Row], bounds: list[Target]) -> None:
        report.write([*rows, *more], [*targets, *bounds])

    if REPLAY in parts:
        found = run_replay(report.say, publish, report.plots, jobs, quick=quick)
        rows += found[0]
        targets += found[1]
    if LIVE in parts:
        found = run_live(report.say, publish, lines, threads)
        rows += found[0]
        targets += found[1]
    report.conclude(rows, targets)
