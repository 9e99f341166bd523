"""Plots of S1 in replay: throughput by rung, mean response by load."""

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from benchmarks.s1.ladder import (
    NO_PREDICTOR,
    ORACLE_PREDICTOR,
    OUR_PREDICTOR,
    PREDICTORS,
    PUBLISHED_PREDICTOR,
    RUNGS,
    UNPREDICTED,
)
from benchmarks.s1.replay_cells import MAIN, SATURATED
from benchmarks.s1.replay_rows import Point
from gateway.replay.report.plot_style import RC, add_legend, new_figure, set_log_scale, style_of

HATCHES: Final = {
    NO_PREDICTOR: "",
    OUR_PREDICTOR: "",
    PUBLISHED_PREDICTOR: "//",
    ORACLE_PREDICTOR: "..",
}
BAR_WIDTH: Final = 0.27


def draw(found: list[Point], folder: Path) -> None:
    """Write the plots of the main setting."""
    mine = [point for point in found if point.place.setting == MAIN.name and point.rung in RUNGS]
    folder.mkdir(parents=True, exist_ok=True)
    _throughput([each for each in mine if each.place.load is SATURATED], folder)
    _responses([each for each in mine if each.place.load is not SATURATED], folder)


@mpl.rc_context(RC)
def _throughput(found: list[Point], folder: Path) -> None:
    """Requests a second with a backlog: a group of bars for each rung, a bar for each predictor."""
    figure = new_figure(9.0, 4.0)
    axes = figure.subplots()
    for point in found:
        predictor = point.place.predictor
        offset = 0.0 if point.rung in UNPREDICTED else PREDICTORS.index(predictor) - 1
        interval = point.of("requests_s")
        style = style_of(point.rung)
        axes.bar(
            RUNGS.index(point.rung) + BAR_WIDTH * offset,
            interval.mean,
            BAR_WIDTH,
            yerr=np.nan_to_num(interval.half_width),
            color=style["color"],
            edgecolor="white",
            hatch=HATCHES[predictor],
            capsize=2,
        )
    axes.set_xticks(range(len(RUNGS)), RUNGS)
    axes.set_ylabel("requests/s with a backlog")
    axes.set_title("bars of a group: lengths by our predictor, by Magnus's (lines), true (dots)")
    figure.savefig(folder / "S1-throughput.png", format="png")


@mpl.rc_context(RC)
def _responses(found: list[Point], folder: Path) -> None:
    """Mean and p95 response by load, a line for each rung, with our predictor."""
    figure = new_figure(10.0, 4.2)
    panels = figure.subplots(1, 2, sharex=True)
    for axes, measure, name in zip(panels, ("mean_s", "p95_s"), ("mean", "p95"), strict=True):
        for rung in RUNGS:
            mine = [p for p in found if p.rung == rung and p.place.predictor in HATCHES]
            _line(
                axes,
                [p for p in mine if p.place.predictor in (NO_PREDICTOR, OUR_PREDICTOR)],
                measure,
                style_of(rung),
            )
        set_log_scale(axes)
        axes.set_title(f"{name} response (s), log scale")
        axes.set_xlabel("load, relative to fixed's saturated rate")
    add_legend(figure, panels[0])
    figure.savefig(folder / "S1-response.png", format="png")


def _line(axes: Axes, found: list[Point], measure: str, style: dict[str, Any]) -> None:
    found = sorted(found, key=lambda point: point.place.load or 0.0)
    intervals = [point.of(measure) for point in found]
    axes.errorbar(
        [point.place.load for point in found],
        [each.mean for each in intervals],
        yerr=[np.nan_to_num(each.half_width) for each in intervals],
        marker="o",
        markersize=3,
        capsize=2,
        **style,
    )
