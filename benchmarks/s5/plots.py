"""S5 as a picture: what was answered in time, by policy."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np

from benchmarks.harness.contenders import grouped
from benchmarks.s5.cells import LOAD, SIDES, Cell
from benchmarks.s5.rows import share_in_time
from gateway.replay.report.plot_style import RC, color_of, new_figure


@mpl.rc_context(RC)
def draw(cells: Iterable[Cell], folder: Path) -> None:
    """Answers in time, as a share of what arrived, by policy."""
    groups = grouped(cells)
    figure = new_figure(8.0, 3.6)
    axes = figure.subplots()
    wide = 0.8 / len(SIDES)
    for number, name in enumerate(SIDES):
        shares = [share_in_time(group, name) for group in groups.values()]
        axes.bar(
            np.arange(len(groups)) + (number - (len(SIDES) - 1) / 2) * wide,
            [100 * each.mean for each in shares],
            width=wide,
            yerr=np.nan_to_num([100 * each.half_width for each in shares]),
            color=color_of(name),
            label=name,
        )
    axes.set_xticks(range(len(groups)), [f"{source}, {pool}" for source, pool in groups])
    axes.set(title=f"Answered in time at {LOAD} times capacity", ylabel="% of what arrived")
    axes.grid(visible=False, axis="x")
    axes.legend(ncols=len(SIDES))
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "S5-in-time.png", format="png")
