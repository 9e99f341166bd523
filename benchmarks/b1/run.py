"""B1: prompt tokens computed for a job of prefix groups, on the real engine."""

import logging

import structlog

from benchmarks.b1.live_run import LINES, run_live
from benchmarks.harness.report import Report, Row, Target


def run(lines: int, threads: int) -> None:
    """Run every cell; writes the result after each."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    report = Report("B1", look=lines != LINES)

    def publish(rows: list[Row], targets: list[Target]) -> None:
        report.write(rows, targets)

    report.conclude(*run_live(report.say, publish, lines, threads))
