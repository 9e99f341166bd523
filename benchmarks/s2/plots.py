"""Plots of S2: mean and p99 relative to FCFS by load, and response by length."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.harness.contenders import FCFS, OUR_ORACLE, OURS, POOLS
from benchmarks.s2.cells import MAIN, SHUFFLED
from benchmarks.s2.rows import Point
from gateway.quantiles import Floats
from gateway.replay.measure.confidence import ConfidenceInterval, confidence_interval
from gateway.replay.measure.metrics import DECILES
from gateway.replay.report.plot_style import (
    RC,
    add_legend,
    color_of,
    new_figure,
    set_log_scale,
    style_of,
)

PLOTTED: Final = ("sjf", "hrrn", OURS, OUR_ORACLE, SHUFFLED)
PLOTTED_BY_LENGTH: Final = (FCFS, "sjf", "hrrn", OURS, OUR_ORACLE)
MEASURES: Final = {"mean_s": "mean", "p99_s": "p99"}
Y_MARGIN: Final = 1.3  # factor beyond the means; wider intervals are cut
MAX_LOADS: Final = 3  # the highest ones, in the plot by length


@mpl.rc_context(RC)
def draw_loads(found: list[Point], folder: Path) -> None:
    """A column for each source with its arrivals, a row for each pool; a file for mean and p99."""
    columns = list(dict.fromkeys((p.regime.source, p.regime.arrivals) for p in found))
    for measure, name in MEASURES.items():
        figure = new_figure(max(2.9 * len(columns), 6.0), 6.0)
        panels = figure.subplots(len(POOLS), len(columns), squeeze=False, sharex=True)
        for line, pool in zip(panels, POOLS, strict=True):
            for axes, (source, arrivals) in zip(line, columns, strict=True):
                where = source, arrivals, pool
                mine = [p for p in found if where == (*columns_of(p), p.regime.pool)]
                _loads(axes, mine, measure)
                axes.set_title(", ".join(where), fontsize=9)
        figure.supxlabel("load")
        figure.supylabel(f"{name} response over FCFS's, log scale")
        _write(figure, panels[0, 0], folder, f"S2-{name}")


@mpl.rc_context(RC)
def draw_deciles(found: list[Point], folder: Path) -> None:
    """Mean response by decile of true length, in the main regime, by pool and load."""
    mine = [point for point in found if columns_of(point) == MAIN]
    loads = sorted({point.load for point in mine})[-MAX_LOADS:]
    if not mine:
        return
    figure = new_figure(11.0, 6.0)
    panels = figure.subplots(len(POOLS), len(loads), squeeze=False, sharex=True)
    for point in mine:
        if point.load in loads:
            axes = panels[list(POOLS).index(point.regime.pool), loads.index(point.load)]
            _by_length(axes, point)
    figure.supxlabel("decile of true length, shortest first")
    figure.supylabel("mean response (s), log scale")
    _write(figure, panels[0, 0], folder, "S2-deciles")


def columns_of(point: Point) -> tuple[str, str]:
    """The source and arrivals of a column of panels."""
    return point.regime.source, point.regime.arrivals


def whiskers(found: Sequence[ConfidenceInterval]) -> Floats:
    """The distances of interval bounds below and above their means: (2, n), 0 for no interval."""
    reach = [(each.mean - each.low, each.high - each.mean) for each in found]
    both: Floats = np.nan_to_num(np.array(reach).reshape(-1, 2).T)
    return both


def _loads(axes: Axes, found: list[Point], measure: str) -> None:
    axes.axhline(1, color=color_of(FCFS), linewidth=1)
    for name in PLOTTED:
        mine = [point for point in found if name in point.contender_names]
        relative = [point.relative(name, measure) for point in mine]
        axes.errorbar(
            [point.load for point in mine],
            [each.mean for each in relative],
            yerr=whiskers(relative),
            marker="o",
            markersize=3,
            capsize=2,
            **_style(name),
        )
    axes.set_xticks([point.load for point in found])
    means = [
        point.relative(n, measure).mean
        for point in found
        for n in PLOTTED
        if n in point.contender_names
    ]
    axes.set_ylim(min(means, default=1) / Y_MARGIN, max(means, default=1) * Y_MARGIN)
    set_log_scale(axes)


def _by_length(axes: Axes, point: Point) -> None:
    for name in PLOTTED_BY_LENGTH:
        columns = zip(*(cell.measured[name].deciles_s for cell in point.cells), strict=True)
        means = [confidence_interval(values).mean for values in columns]
        axes.plot(range(1, DECILES + 1), means, marker="o", markersize=3, **_style(name))
    axes.set_title(f"{point.regime.pool}, load {point.load:g}", fontsize=9)
    axes.set_xticks(range(1, DECILES + 1))
    set_log_scale(axes)


def _style(name: str) -> dict[str, Any]:
    """The style of a contender; shuffled predictions are our line, dotted."""
    if name == SHUFFLED:
        return {**style_of(OURS), "label": name, "linestyle": ":"}
    return style_of(name)


def _write(figure: Figure, axes: Axes, folder: Path, name: str) -> None:
    add_legend(figure, axes)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", format="png")
