"""The live cells of B1 counted in replay: each count must be that of the real engine."""

from typing import Final

import numpy as np

from benchmarks.b1.job import group_of
from benchmarks.b1.live_run import LINES, live_lines
from benchmarks.b1.replay_cells import ReplayCell, replay_order
from benchmarks.harness.report import Row, Target, target

STEP_TOKENS: Final = 512  # the engine's default, with which the live cells run
CELL: Final = ("degree", "kv_tokens", "order", "least")


def live_cell(degree: int, kv_tokens: int) -> ReplayCell:
    """A live cell in replay: the same lines in the same order."""
    groups = np.array([group_of(line) for line in live_lines(LINES, degree)])
    return replay_order(groups, kv_tokens, step_tokens=STEP_TOKENS)


def compared(rows: list[Row]) -> list[Row]:
    """The rows; those of live cells in replay get the count of the live run, if it ran."""
    live = {_cell(row): row["prefilled"] for row in rows if row["part"] == "live"}
    return [row | {"live": live.get(_cell(row))} if "live" in row else row for row in rows]


def counts_target(rows: list[Row]) -> Target:
    """No count differs between replay and the live engine. `rows` are `compared`."""
    counts = [(row["prefilled"], row["live"]) for row in rows if "live" in row]
    complete = counts and all(live is not None for _, live in counts)
    other = float(sum(one != live for one, live in counts)) if complete else None
    return target("counts that differ between replay and live", other, 0.0, "at most")


def _cell(row: Row) -> tuple[object, ...]:
    return tuple(str(row[name]) for name in CELL)
