"""S3: reservations for answers in a fixed KV pool, from the maximum to the true length.

The setting of S³ (arXiv 2306.06000): models of 6 to 33 billion parameters on a card of 80 GB, a
context of 2,048 tokens, which a server without predictions reserves, and far shorter sequences.
Sequences in flight and tokens a second are measured separately: more in flight is faster only
while steps are not bound by computing. All requests wait from the start and, except under S³'s own
packing, start in order of arrival; only reservations differ.
"""

from itertools import product
from typing import Final

from benchmarks.harness.contenders import SEEDS
from benchmarks.harness.report import Report
from benchmarks.s3.cells import (
    MODELS,
    OTHER_LENGTHS,
    OTHER_LENGTHS_MODEL,
    REGIMES,
    TURNOVERS,
    Cell,
    case,
    reservation_measures,
)
from benchmarks.s3.plots import draw
from benchmarks.s3.rows import rows_of, targets
from gateway.replay.comparison import compare

QUICK_TURNOVERS: Final = 5


def run(*, quick: bool, jobs: int) -> None:
    """Replay every model with every kind of lengths; the result is written after each cell."""
    report = Report("S3", look=quick)
    turnovers = QUICK_TURNOVERS if quick else TURNOVERS
    kinds = [
        *product(REGIMES, MODELS),
        *((lengths, OTHER_LENGTHS_MODEL) for lengths in OTHER_LENGTHS),
    ]
    cases = [
        case(model, lengths, seed, turnovers) for lengths, model in kinds for seed in range(SEEDS)
    ]
    cells: list[Cell] = []
    for done in compare(cases, reservation_measures, jobs):
        cells.append(done)
        report.say(_line(done))
        report.write(list(rows_of(cells)), list(targets(cells)))
    draw(cells, report.plots)
    report.conclude(list(rows_of(cells)), list(targets(cells)))


def _line(done: Cell) -> str:
    lengths, model = done.key
    shown = ", ".join(
        f"{name} {each.in_flight:.0f} in flight {each.tokens_s:,.0f} tok/s KV {each.kv_use:.0%}"
        f" preempted {each.preempted:.2%}"
        for name, each in done.measured.items()
    )
    return f"{lengths}, {model}, seed {done.seed}: {shown}"
