"""S3: what is reserved for answers at a fixed KV budget, from the maximum to the true length.

S³'s regime (arXiv 2306.06000): models of 6B to 33B on a card of 80 GB, a context of 2,048 tokens
that a cautious server reserves, sequences far shorter than that. Sequences in flight and tokens a
second are told apart: more in flight pay as far as the card is not bound by computing. All wait
from the start, and but for S³'s own packing go in order of arrival: only reservations differ.
"""

from itertools import product
from typing import Final

from benchmarks.harness.contenders import SEEDS
from benchmarks.harness.paths import CACHE, PLOTS
from benchmarks.harness.report import Report
from benchmarks.s3.cells import MODELS, OTHERS, OTHERS_MODEL, REGIMES, TURNOVERS, Cell, case, held
from benchmarks.s3.plots import draw
from benchmarks.s3.rows import rows_of, targets
from gateway.replay.comparison import compare

QUICK_TURNOVERS: Final = 5


def run(*, quick: bool, jobs: int) -> None:
    """Replay every model and kind of lengths; the result is written as cells come."""
    report = Report("S3", look=quick)
    turnovers = QUICK_TURNOVERS if quick else TURNOVERS
    kinds = [*product(REGIMES, MODELS), *((lengths, OTHERS_MODEL) for lengths in OTHERS)]
    cases = [
        case(model, lengths, seed, turnovers) for lengths, model in kinds for seed in range(SEEDS)
    ]
    cells: list[Cell] = []
    for done in compare(cases, held, jobs):
        cells.append(done)
        report.say(_line(done))
        report.write(list(rows_of(cells)), list(targets(cells)))
    draw(cells, CACHE / "looks" if quick else PLOTS)
    report.conclude(list(rows_of(cells)), list(targets(cells)))


def _line(done: Cell) -> str:
    lengths, model = done.key
    shown = ", ".join(
        f"{name} {each.in_flight:.0f} in flight {each.tokens_s:,.0f} tok/s KV {each.kv_use:.0%}"
        f" preempted {each.preempted:.2%}"
        for name, each in done.measured.items()
    )
    return f"{lengths}, {model}, seed {done.seed}: {shown}"
