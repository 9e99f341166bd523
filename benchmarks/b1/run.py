"""B1: the prompt tokens that prefix groups save, at any size of the KV memory.

The job of BatchLLM's benchmark (arXiv 2412.03594): lines in groups, 2,000 shared tokens, 200 of
their own and 100 of answer, shuffled.
"""

from collections.abc import Sequence
from typing import Final

from benchmarks.b1.replay_run import run_replay
from benchmarks.harness.report import Report, Row, Target

REPLAY: Final = "replay"
PARTS: Final = (REPLAY,)


def run(parts: Sequence[str], *, quick: bool, jobs: int) -> None:
    """Measure these parts; the result is written after each cell."""
    report = Report("B1", look=quick or set(parts) != set(PARTS))
    rows: list[Row] = []
    targets: list[Target] = []

    def publish(more: list[Row], bounds: list[Target]) -> None:
        report.write([*rows, *more], [*targets, *bounds])

    if REPLAY in parts:
        found = run_replay(report.say, publish, report.plots, jobs, quick=quick)
        rows += found[0]
        targets += found[1]
    report.conclude(rows, targets)
