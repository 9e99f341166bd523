"""I3: tokens a second of long answers whose keys and values are four times the device's pool.

On a CPU, host and device are the same memory. Copies between them are slowed down instead, so that
a step's full fetch takes a multiple of the step's own time; the gather of rows takes what it takes.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import torch

from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.i3.link import Link
from benchmarks.i3.load import Load, Timing, Use, run_load
from engine.running.loaded_model import LoadedModel
from engine.running.model import load_model

FACTORS: Final = (1.0, 2.0, 4.0, 6.5, 13.0)  # a full fetch over the step's own time
TYPICAL: Final = 6.5  # an 8B model at 32,768 tokens behind 55 GB/s
COPYING: Final[tuple[Use, ...]] = (
    "swap",
    "host-exact",
    "host-speculative",
    "host-exact, chosen",
    "host-speculative, chosen",
)
LOAD: Final = Load(sequences=8, prompt=192, answer=128)
ROUNDS: Final = 2
QUICK_ROUNDS: Final = 1
LEAST_FASTER: Final = 2.0


class Cell(NamedTuple):
    """A use of host memory behind a link, in each round."""

    factor: float
    use: Use
    timings: list[Timing]

    @property
    def tokens_s(self) -> float:
        """The median of the rounds."""
        return median(each.tokens_s for each in self.timings)


def run(folder: Path, threads: int, *, quick: bool) -> None:
    """Measure each use behind each link, in turns, and write the rows."""
    report = Report("I3", look=quick)
    torch.set_num_threads(threads)
    model = load_model(str(folder), "cpu", "float32")
    warm = run_load(model, LOAD, "device", Link(None), threads)
    report.say(f"on the device: {warm.tokens_s:.0f} tokens/s, a step of {_ms(warm.decode_s)} ms")
    rounds = QUICK_ROUNDS if quick else ROUNDS
    whole = [run_load(model, LOAD, "device", Link(None), threads) for _ in range(rounds)]
    step_s = median(each.decode_s or each.seconds / each.steps for each in whole)
    computed = Cell(0.0, "recompute", [])  # nothing is copied: the same behind any link
    cells = [Cell(factor, use, []) for factor in FACTORS for use in COPYING]
    for number in range(rounds):
        computed.timings.append(run_load(model, LOAD, computed.use, Link(None), threads))
        for cell in cells:
            link = Link(bytes_of_fetch(model) / (cell.factor * step_s))
            cell.timings.append(run_load(model, LOAD, cell.use, link, threads))
        report.say(f"round {number + 1} of {rounds}")
    rows = [_row(0.0, "device", whole), *(_row(*cell) for cell in (computed, *cells))]
    report.conclude(rows, targets(cells))


def bytes_of_fetch(model: LoadedModel) -> int:
    """What a step of all sequences fetches if it fetches all, halfway through the answers."""
    shape, tokens = model.kv_shape, LOAD.prompt + LOAD.answer // 2
    row = 2 * shape.kv_heads * shape.head_dim * model.dtype.itemsize
    return LOAD.sequences * tokens * shape.layers * row


def targets(cells: Sequence[Cell]) -> list[Target]:
    """Speculation against fetching everything, in the steps that decode."""
    faster = {factor: _faster(cells, factor) for factor in FACTORS}
    return [
        target(f"speculation over a full fetch, {TYPICAL} x", faster[TYPICAL], LEAST_FASTER),
        target("speculation over a full fetch, 1 x", faster[1.0], 1.0),
    ]


def _faster(cells: Sequence[Cell], factor: float) -> float | None:
    """How many times faster a decoding step is that fetches a part; the median of the rounds."""
    part, full = (
        next(each for each in cells if (each.factor, each.use) == (factor, use))
        for use in ("host-speculative", "host-exact")
    )
    ratios = [
        exact.decode_s / speculative.decode_s
        for exact, speculative in zip(full.timings, part.timings, strict=True)
        if exact.decode_s and speculative.decode_s
    ]
    return median(ratios) if ratios else None


def _row(factor: float, use: Use, timings: Sequence[Timing]) -> Row:
    decoding = [each.decode_s for each in timings if each.decode_s]
    return {
        "full fetch over step": factor,
        "memory": use,
        "tokens/s": median(each.tokens_s for each in timings),
        "decoding step, ms": 1000 * median(decoding) if decoding else None,
        "preemptions": median(each.preemptions for each in timings),
        "on the host": median(each.on_host for each in timings),
        "MB copied": median(each.copied for each in timings) / 1e6,
    }


def _ms(seconds: float | None) -> str:
    return "?" if seconds is None else f"{1000 * seconds:.0f}"
