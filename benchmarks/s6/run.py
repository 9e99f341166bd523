"""S6: what a start produces against what it may lose, and rules that do not weigh these.

All requests arrive at once, so that memory is always short. *ours* is the default admission;
*held* starts whatever fits next to the pages in use; *peak, margin adapted* keeps the mean of the
future peak and a margin that follows the preemption rate; *S³* is its policy. All but S³ start in
order of arrival. Every rule gets the same requests and predictions.
"""

from itertools import product
from typing import Final

from benchmarks.harness.report import Report
from benchmarks.s6.cells import OURS, RULES, SEEDS, Cell, keys, measure_cell
from benchmarks.s6.plots import draw
from benchmarks.s6.rows import rows_of, targets
from gateway.replay.comparison import map_in_processes

QUICK_SEEDS: Final = 2


def run(*, quick: bool, jobs: int) -> None:
    """Replay every cell; the result is written at the end of each engine's."""
    report = Report("S6", look=quick)
    runs = list(product(keys(quick=quick), range(QUICK_SEEDS if quick else SEEDS)))
    cells: list[Cell] = []
    columns = [key for key, _ in runs], [seed for _, seed in runs]
    for done in map_in_processes(jobs, measure_cell, *columns):
        if cells and cells[-1].key != done.key:
            report.say(_line(cells[-1]))
        cells.append(done)
    draw(cells, report.plots)
    report.conclude(list(rows_of(cells)), list(targets(cells)))


def _line(done: Cell) -> str:
    ours = done.measured[OURS]
    shown = ", ".join(
        f"{rule} {done.measured[rule].tokens_s / ours.tokens_s:.3f} tok/s "
        f"{done.measured[rule].first_token_p99_s / ours.first_token_p99_s:.3f} p99"
        for rule in RULES
        if rule != OURS
    )
    return f"{', '.join(done.key)}: of ours, seed {done.seed}: {shown}"
