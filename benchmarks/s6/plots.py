"""Plot of S6: tokens a second and p99 time to the first token, ours over each other rule."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import matplotlib as mpl

from benchmarks.harness.contenders import group_by_key
from benchmarks.s6.cells import WORKLOADS, Cell
from benchmarks.s6.rows import OTHERS, speed_over, wait_over
from gateway.replay.report.plot_style import RC, add_legend, new_figure

PALETTE: Final = ("#d9822b", "#1f6fb4", "#3f9e6e")


def draw(cells: Iterable[Cell], folder: Path) -> None:
    """A point for each cell and other rule; ours is better to the right and below."""
    groups = group_by_key(cells)
    with mpl.rc_context(RC):
        figure = new_figure(11.0, 4.4)
        panels = figure.subplots(1, len(WORKLOADS), sharey=True)
        for axes, workload in zip(panels, WORKLOADS, strict=True):
            found = [group for key, group in groups.items() if key.workload == workload]
            for other, color in zip(OTHERS, PALETTE, strict=True):
                speeds = [speed_over(group, other).mean for group in found]
                waits = [wait_over(group, other).mean for group in found]
                axes.scatter(speeds, waits, s=16, color=color, label=f"over {other}")
            axes.axhline(1, color="#888888", linewidth=0.8)
            axes.axvline(1, color="#888888", linewidth=0.8)
            axes.set_title(workload)
            axes.set_xlabel("tokens/s, ours over the rule's")
        panels[0].set_ylabel("p99 first token, ours over the rule's")
        add_legend(figure, panels[0])
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / "S6-admission.png", format="png")
