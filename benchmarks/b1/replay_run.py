"""B1 in replay: every degree at every size of the KV memory."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.b1.job import least
from benchmarks.b1.live_run import DEGREES as LIVE_DEGREES
from benchmarks.b1.live_run import KV_TOKENS as LIVE_KV
from benchmarks.b1.replay_cells import ReplayCell, optimum, replay_cell
from benchmarks.b1.replay_counts import live_cell
from benchmarks.harness.report import Row, Target, target
from gateway.replay.comparison import map_in_processes
from gateway.replay.report.plot_style import RC, add_legend, new_figure

LINES: Final = 3_200
QUICK_LINES: Final = 320
DEGREES: Final = (2, 4, 8, 16)
KV_TOKENS: Final = (8_192, 16_384, 32_768, 80_000, 200_000, 400_000, 800_000)
IN_GROUPS: Final = "groups"
IN_ORDER: Final = "arrival, LRU"
DASHED: Final = (0, (3, 1.5))
COLORS: Final = {2: "#9fb8d0", 4: "#5b93c4", 8: "#1f6fb4", 16: "#12406b"}


def run_replay(
    say: Callable[[str], None],
    publish: Callable[[list[Row], list[Target]], None],
    plots: Path,
    jobs: int,
    *,
    quick: bool = False,
) -> tuple[list[Row], list[Target]]:
    """Count each cell, `jobs` at once; `publish` gets the rows so far."""
    lines, cells = QUICK_LINES if quick else LINES, list[ReplayCell]()
    keys = list(product(DEGREES, KV_TOKENS))
    degrees, pools = zip(*keys, strict=True)
    for cell in map_in_processes(jobs, replay_cell, [lines] * len(keys), degrees, pools):
        cells.append(cell)
        say(described(cell))
        publish(rows_of(cells), targets(cells))
    draw(cells, plots)
    counted = [live_cell(degree, kv_tokens) for kv_tokens, degree in product(LIVE_KV, LIVE_DEGREES)]
    return [*rows_of(cells), *count_rows(counted)], targets(cells)


def described(cell: ReplayCell) -> str:
    """A line of progress."""
    return (
        f"replay, degree {cell.degree}, {cell.kv_tokens:,} KV tokens: "
        f"{cell.saved(cell.groups):.1%} saved in groups, {cell.saved(cell.arrival):.1%} in order "
        f"of arrival, of {cell.optimum:.1%}; {cell.groups.makespan_s:,.0f} s against "
        f"{cell.arrival.makespan_s:,.0f} s"
    )


def rows_of(cells: list[ReplayCell]) -> list[Row]:
    """A row for each cell and order."""
    return [
        {
            "part": "replay",
            "degree": cell.degree,
            "kv_tokens": cell.kv_tokens,
            "order": order,
            "saved": cell.saved(run),
            "optimum": cell.optimum,
            "tokens a step": run.computed_tokens / run.steps,
            "makespan_s": run.makespan_s,
            "preemptions": run.preemptions,
            "pins": run.pins,
            "pins_lost": run.pins_lost,
        }
        for cell in cells
        for order, run in ((IN_GROUPS, cell.groups), (IN_ORDER, cell.arrival))
    ]


def count_rows(cells: list[ReplayCell]) -> list[Row]:
    """A row for each order of the live cells, with room for the live count."""
    return [
        {
            "part": "replay",
            "degree": cell.degree,
            "kv_tokens": cell.kv_tokens,
            "order": order,
            "least": least(cell.lines, cell.degree),
            "prefilled": run.prefilled(cell.lines),
            "live": None,
        }
        for cell in cells
        for order, run in ((IN_ORDER, cell.arrival), (IN_GROUPS, cell.groups))
    ]


def targets(cells: list[ReplayCell]) -> list[Target]:
    """The exact optimum at every size; never slower than in order of arrival."""
    found: list[Target] = []
    for degree in DEGREES:
        saved = [cell.saved(cell.groups) for cell in cells if cell.degree == degree]
        worst = round(min(saved), 12) if len(saved) == len(KV_TOKENS) else None
        bound = round(optimum(degree), 12)
        found.append(target(f"replay: degree {degree}, least saved at any size", worst, bound))
    slower = max((cell.groups.makespan_s / cell.arrival.makespan_s for cell in cells), default=None)
    found.append(target("replay: makespan over that in order of arrival", slower, 1.0, "at most"))
    return found


def draw(cells: list[ReplayCell], folder: Path) -> None:
    """The saved share over the size of the KV memory, in both orders."""
    with mpl.rc_context(RC):
        figure: Figure = new_figure(9.0, 4.2)
        left, right = figure.subplots(1, 2)
        for degree in DEGREES:
            own = [cell for cell in cells if cell.degree == degree]
            sizes = np.array([cell.kv_tokens for cell in own])
            for order, style in ((IN_GROUPS, "-"), (IN_ORDER, DASHED)):
                runs = [cell.groups if order == IN_GROUPS else cell.arrival for cell in own]
                look = {"color": COLORS[degree], "linestyle": style, "marker": "o"}
                label = f"degree {degree}" if order == IN_GROUPS else None
                saved = [100 * cell.saved(run) for cell, run in zip(own, runs, strict=True)]
                left.plot(sizes, saved, label=label, markersize=3, **look)
                makespans = [run.makespan_s for run in runs]
                right.plot(sizes, makespans, markersize=3, **look)
        left.set_title("Saved prompt tokens, %")
        right.set_title("Makespan, s")
        right.set_yscale("log")
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_xticks(KV_TOKENS, [f"{size // 1000}k" for size in KV_TOKENS])
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel("KV tokens")
        right.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        right.yaxis.set_minor_formatter(NullFormatter())
        left.plot([], [], color="#5f6570", label=IN_GROUPS)
        left.plot([], [], color="#5f6570", linestyle=DASHED, label=IN_ORDER)
        add_legend(figure, left)
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / "B1-saved.png", format="png")
