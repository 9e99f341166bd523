"""Plot of S2 live: our response times over FCFS's by load, live and in replay."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

from benchmarks.s2.live_rows import STATISTICS, LoadRun
from gateway.evaluation.plots import BLUE, ORANGE
from gateway.replay.report.plot_style import RC, add_legend, new_figure

BAR_WIDTH = 0.38


def draw(found: Sequence[LoadRun], folder: Path) -> None:
    """A panel for the mean and one for p99, with a pair of bars for each load."""
    positions = np.arange(len(found))
    with mpl.rc_context(RC):
        figure = new_figure(8.0, 3.6)
        panels = figure.subplots(1, len(STATISTICS), sharey=True)
        for axes, name in zip(panels, STATISTICS, strict=True):
            sides = (
                ("live", BLUE, [each.live(name) for each in found]),
                ("replay", ORANGE, [each.replayed(name) for each in found]),
            )
            for side, (label, color, values) in enumerate(sides):
                places = positions + (side - 0.5) * BAR_WIDTH
                bars = axes.bar(places, values, BAR_WIDTH, color=color, label=label)
                axes.bar_label(bars, fmt="%.2f", fontsize=8)
            axes.axhline(1.0, color="#888888", linewidth=0.8)
            axes.set_xticks(positions, [f"{each.load:g}" for each in found])
            axes.set(title=f"{name} response over FCFS's", xlabel="load")
            axes.grid(visible=False, axis="x")
        add_legend(figure, panels[0])
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / "S2-live-ratios.png", format="png")
