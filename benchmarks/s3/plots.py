"""Plot of S3: sequences in flight and tokens a second, by reservation rule."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from benchmarks.harness.contenders import group_by_key
from benchmarks.s3.cells import CONTENDERS, FIXED, VARIED, Cell
from benchmarks.s3.rows import over_maximum, over_oracle
from gateway.replay.measure.confidence import ConfidenceInterval
from gateway.replay.report.plot_style import RC, add_legend, new_figure

PALETTE: Final = ("#b4b8bf", "#9fd0b5", "#3f9e6e", "#d9822b", "#1f6fb4", "#12406b")


def draw(cells: Iterable[Cell], folder: Path) -> None:
    """In flight relative to the maximum, tokens a second relative to the oracle, by model."""
    found = group_by_key(cells)
    with mpl.rc_context(RC):
        figure = new_figure(11.0, 6.0)
        panels = figure.subplots(2, 2, sharex=True)
        for line, name in zip(panels, (FIXED.name, VARIED.name), strict=True):
            groups = {model: g for (lengths, model), g in found.items() if lengths == name}
            _bars(line[0], groups, over_maximum)
            _bars(line[1], groups, over_oracle)
            line[0].set_title(f"In flight over the maximum's, {name} lengths")
            line[1].set_title(f"Tokens/s over the oracle's, {name} lengths")
        add_legend(figure, panels[0, 0])
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / "S3-reserved.png", format="png")


def _bars(
    axes: Axes,
    groups: dict[str, list[Cell]],
    value: Callable[[list[Cell], str], ConfidenceInterval],
) -> None:
    width = 0.8 / len(CONTENDERS)
    positions = np.arange(len(groups))
    for number, (contender, color) in enumerate(zip(CONTENDERS, PALETTE, strict=True)):
        found = [value(group, contender.name) for group in groups.values()]
        axes.bar(
            positions + (number - (len(CONTENDERS) - 1) / 2) * width,
            [each.mean for each in found],
            width=width,
            yerr=np.nan_to_num([each.half_width for each in found]),
            color=color,
            label=contender.name,
            error_kw={"elinewidth": 0.8},
        )
    axes.set_xticks(positions, list(groups))
    axes.grid(visible=False, axis="x")
