"""Plot of S3 live: tokens a second, sequences in memory and supervisor's counts by contender."""

from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np

from benchmarks.harness.report import shown
from benchmarks.s3.live_rows import LivePasses
from gateway.evaluation.plots import BLUE, ORANGE
from gateway.replay.report.plot_style import RC, new_figure

GREY: Final = "#b4b8bf"


def draw(passes: LivePasses, folder: Path) -> None:
    """A panel for each measure, with a bar for each contender; misled ones in another colour."""
    names = list(passes)
    found = [measured.outcome for measured in passes.values()]
    panels = {
        "Tokens a second": [each.tokens_s for each in found],
        "Sequences in memory": [each.in_memory for each in found],
        "Doublings per request": _per_request(passes, "extensions"),
        "Preemptions per request": _per_request(passes, "preemptions"),
    }
    colors = [_color(each.contender.lengths) for each in found]
    positions = np.arange(len(names))
    with mpl.rc_context(RC):
        figure = new_figure(12.0, 3.6)
        all_axes = figure.subplots(1, len(panels), sharey=True)
        for axes, (title, values) in zip(all_axes, panels.items(), strict=True):
            bars = axes.barh(positions, values, color=colors)
            axes.bar_label(bars, list(map(shown, values)), fontsize=8, padding=2)
            axes.set_title(title, fontsize=10)
            axes.margins(x=0.25)
            axes.grid(visible=False, axis="y")
        all_axes[0].set_yticks(positions, names)
        all_axes[0].invert_yaxis()  # all panels share it
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / "S3-live-reservations.png", format="png")


def _per_request(passes: LivePasses, count: str) -> list[float]:
    return [each.outcome.counts[count] / len(each.outcome.answers) for each in passes.values()]


def _color(lengths: str) -> str:
    if lengths in {"none", "true"}:
        return GREY
    return BLUE if lengths == "own" else ORANGE
