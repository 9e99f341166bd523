"""B1: prompt tokens computed for a job of prefix groups, on the real engine."""

import logging

import structlog

from benchmarks.b1.live_run import LINES, run_live
from benchmarks.harness.report import Report


def run(lines: int, threads: int) -> None:
    """Run every cell; writes the result after each."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    report = Report("B1", look=lines != LINES)
    report.conclude(*run_live(report.say, report.write, lines, threads))
