"""Plot of S5: requests answered in time, by policy."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np

from benchmarks.harness.contenders import group_by_key
from benchmarks.s5.cells import CONTENDERS, LOAD, Cell
from benchmarks.s5.rows import share_in_time
from gateway.replay.report.plot_style import RC, color_of, new_figure


@mpl.rc_context(RC)
def draw(cells: Iterable[Cell], folder: Path) -> None:
    """The fraction of requests answered in time, by policy."""
    groups = group_by_key(cells)
    figure = new_figure(8.0, 3.6)
    axes = figure.subplots()
    width = 0.8 / len(CONTENDERS)
    for number, name in enumerate(CONTENDERS):
        shares = [share_in_time(group, name) for group in groups.values()]
        axes.bar(
            np.arange(len(groups)) + (number - (len(CONTENDERS) - 1) / 2) * width,
            [100 * each.mean for each in shares],
            width=width,
            yerr=np.nan_to_num([100 * each.half_width for each in shares]),
            color=color_of(name),
            label=name,
        )
    axes.set_xticks(range(len(groups)), [f"{source}, {pool}" for source, pool in groups])
    axes.set(title=f"Answered in time at {LOAD} times capacity", ylabel="% of requests")
    axes.grid(visible=False, axis="x")
    axes.legend(ncols=len(CONTENDERS))
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "S5-in-time.png", format="png")
