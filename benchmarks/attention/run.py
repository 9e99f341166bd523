"""attention: a decode step whose rows share a prefix, in two passes and in one."""

from statistics import median
from typing import Final

import torch
from msgspec import Struct

from benchmarks.attention.steps import (
    MORE,
    Heads,
    Sides,
    Step,
    a_step,
    a_store,
    attention_s,
    pages_needed,
    sides,
)
from benchmarks.harness.report import Report, Row, Target, target
from engine.attention import triton
from engine.attention.native import default_gate
from engine.attention.shared_pages import SharingGate

DEGREES: Final = (1, 2, 4, 8, 16, 64)
PREFIXES: Final = (128, 512, 2_000, 8_000)
APART: Final = 16  # rows of the step that shares nothing
FORMATS: Final = (torch.float32, torch.bfloat16)
CPU_HEADS: Final = {"demo": Heads(2, 2, 32, 4), "SmolLM2": Heads(3, 3, 64, 30)}
GPU_HEADS: Final = {"SmolLM2": Heads(3, 3, 64, 30), "8B": Heads(8, 4, 128, 32)}
ROUNDS: Final = 5  # at least
CELL_S: Final = 0.3  # of attention, at least
WORK: Final = 1 + MORE  # layers measured
MAX_SLOWER: Final = 1.02


class Cell(Struct, frozen=True):
    """A step's times per layer in one pass and in two, in turns. `degree` 0: nothing is shared."""

    prefix: int
    degree: int
    one_us: list[float]
    two_us: list[float]

    @property
    def ratio(self) -> float:
        """Two passes over one, the median of the turns."""
        return median(two / one for one, two in zip(self.one_us, self.two_us, strict=True))


class Table(Struct, frozen=True):
    """The cells of a model's heads in a number format. `gate`: that of the product."""

    heads: str
    dtype: str
    gate: SharingGate | None
    cells: list[Cell]


def run(device: str) -> None:
    """Measure all cells; writes the result after each table."""
    on = torch.device(device)
    report = Report("attention", look=on.type == "cuda")
    report.say(f"on {torch.cuda.get_device_name(on) if on.type == 'cuda' else 'one thread'}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tables: list[Table] = []
    try:
        for name, heads in (GPU_HEADS if on.type == "cuda" else CPU_HEADS).items():
            for dtype in FORMATS:
                tables.append(_table(name, heads, dtype, on))
                report.say(f"{name} {dtype} measured")
                report.write(rows_of(tables), targets(tables))
    finally:
        torch.set_num_threads(threads)
    report.conclude(rows_of(tables), targets(tables))


def rows_of(tables: list[Table]) -> list[Row]:
    """A row for each prefix: two passes over one by degree, and the time of the largest step."""
    return [
        {
            "heads": table.heads,
            "dtype": table.dtype,
            "prefix": prefix,
            "apart": _ratio(table, prefix, 0),
            **{f"{degree} rows": _ratio(table, prefix, degree) for degree in DEGREES},
            "one pass µs": median(_cell(table, prefix, DEGREES[-1]).one_us),
            "shared from": _least(table.gate, prefix),
            "cells": [cell for cell in table.cells if cell.prefix == prefix],
        }
        for table in tables
        for prefix in PREFIXES
    ]


def targets(tables: list[Table]) -> list[Target]:
    """Two passes are faster wherever the gate allows them, and looking for them costs little."""
    allowed = [
        cell.ratio
        for table in tables
        for cell in table.cells
        if (least := _least(table.gate, cell.prefix)) and cell.degree >= least
    ]
    apart = [cell.ratio for table in tables for cell in table.cells if cell.degree <= 1]
    return [
        target(
            "two passes over one, worst from the gate on",
            max(allowed, default=None),
            1.0,
            "at most",
        ),
        target(
            "the product over one pass, worst without sharing", max(apart), MAX_SLOWER, "at most"
        ),
    ]


def _table(name: str, heads: Heads, dtype: torch.dtype, device: torch.device) -> Table:
    pages = max(
        pages_needed(DEGREES[-1], PREFIXES[-1], shared=True),
        pages_needed(APART, PREFIXES[-1], shared=False),
    )
    store = a_store(heads, pages, dtype, device)
    of, cells = sides(store, heads), list[Cell]()
    for prefix in PREFIXES:
        steps = {0: a_step(store, heads, APART, prefix, shared=False)}
        steps |= {degree: a_step(store, heads, degree, prefix) for degree in DEGREES}
        cells += [
            _measured(of, step, heads.layers, prefix, degree) for degree, step in steps.items()
        ]
    return Table(name, str(dtype).removeprefix("torch."), _gate(heads, device), cells)


def _measured(of: Sides, step: Step, layers: int, prefix: int, degree: int) -> Cell:
    """Both sides in turns, in both orders; where nothing is shared, the product is one of them."""
    both = of.one, of.two if degree > 1 else of.product
    for attention in both:
        attention_s(attention, step, layers)  # what is done once: compiling, caches
    times: tuple[list[float], list[float]] = [], []
    while len(times[0]) < ROUNDS or WORK * sum(map(sum, times)) < CELL_S:
        for side in (0, 1) if len(times[0]) % 2 else (1, 0):
            times[side].append(attention_s(both[side], step, layers))
    one, two = ([1e6 * seconds for seconds in side] for side in times)
    return Cell(prefix, degree, one, two)


def _gate(heads: Heads, device: torch.device) -> SharingGate | None:
    if device.type == "cuda":
        return triton.GATE
    return default_gate(heads.group)


def _least(gate: SharingGate | None, prefix: int) -> int | None:
    """The fewest of the measured rows with a prefix that are attended in two passes, if any are."""
    if not gate or prefix < gate.tokens:
        return None
    return next((n for n in DEGREES if n >= gate.rows and n * prefix >= gate.keys), None)


def _cell(table: Table, prefix: int, degree: int) -> Cell:
    return next(c for c in table.cells if (c.prefix, c.degree) == (prefix, degree))


def _ratio(table: Table, prefix: int, degree: int) -> float:
    return _cell(table, prefix, degree).ratio
