"""The plot of S1 live: throughput with a backlog and response at a load, relative to `fixed`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes

from benchmarks.harness.report import Row
from benchmarks.s1.ladder import FIXED, RUNGS
from gateway.replay.report.plot_style import RC, color_of, new_figure

NAME: Final = "S1-live"
BAR_WIDTH: Final = 0.26


@mpl.rc_context(RC)
def draw(rows: Sequence[Row], folder: Path) -> None:
    """Write the plot: a row of panels for each model."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = new_figure(10.0, 3.4 * len(models))
    panels = figure.subplots(len(models), 2, squeeze=False, width_ratios=(3, 2))
    for (left, right), model in zip(panels, models, strict=True):
        own = [row for row in rows if row["model"] == model]
        _throughput(left, [row for row in own if "rung" in row and "load" not in row])
        _responses(right, [row for row in own if "load" in row])
        left.set_title(f"{model}: valid tokens per modelled second / fixed")
        right.set_title("mean response / fixed")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{NAME}.png", format="png")


def _throughput(axes: Axes, rows: Sequence[Row]) -> None:
    """For each rung: live, replayed, and replayed with the true lengths."""
    fixed = next(row for row in rows if row["rung"] == FIXED)
    for row in rows:
        place = RUNGS.index(row["rung"])
        bars = (
            (row["/fixed"], ""),
            (row["replay"] / fixed["replay"], "//"),
            (row["oracle in replay"] and row["oracle in replay"] / fixed["replay"], ".."),
        )
        for number, (value, hatch) in enumerate(bars):
            if value is not None:
                axes.bar(
                    place + (number - 1) * BAR_WIDTH,
                    value,
                    BAR_WIDTH,
                    color=color_of(row["rung"]),
                    edgecolor="white",
                    hatch=hatch,
                )
    axes.axhline(1.0, color="0.5", linewidth=0.8)
    axes.set_xticks(range(len(RUNGS)), [rung.replace("-", "-\n") for rung in RUNGS])
    axes.set_xlabel("bars of a rung: live, replayed (lines), replayed with true lengths (dots)")


def _responses(axes: Axes, rows: Sequence[Row]) -> None:
    """For each load: a bar for each rung, live, and a dot where the replay is."""
    loads = sorted({row["load"] for row in rows})
    rungs = [rung for rung in RUNGS if any(row["rung"] == rung for row in rows)]
    for row in rows:
        place = loads.index(row["load"]) + (rungs.index(row["rung"]) - 1) * BAR_WIDTH
        first = row["load"] == loads[0]
        label = row["rung"] if first else None
        axes.bar(place, row["/fixed"], 0.9 * BAR_WIDTH, color=color_of(row["rung"]), label=label)
        axes.plot(place, row["replay /fixed"], "ko", markersize=3)
    axes.set_xticks(range(len(loads)), [f"{load:g}" for load in loads])
    axes.set_xlabel("load, relative to fixed's saturated rate\n(dots: replayed)")
    axes.set_ylim(top=1.2 * axes.get_ylim()[1])  # above the bars: the legend
    axes.legend(loc="upper center", ncols=len(rungs))
