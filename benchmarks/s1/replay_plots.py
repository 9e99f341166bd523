"""Plots of S1 in replay: throughput by rung, response by load."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.s1.ladder import NO_PREDICTOR, OUR_PREDICTOR, PREDICTORS, RUNGS, UNPREDICTED
from benchmarks.s1.replay_cells import MAIN, SATURATED
from benchmarks.s1.replay_rows import Point
from gateway.replay.report.plot_style import RC, add_legend, new_figure, set_log_scale, style_of

HATCHES: Final = ("", "///", "...")  # of PREDICTORS
BAR_WIDTH: Final = 0.27
RESPONSES: Final = {"mean_s": "mean", "p95_s": "95th percentile of"}


def draw(found: Sequence[Point], folder: Path) -> None:
    """Write the plots of the main setting."""
    ladder = [each for each in found if each.place.setting == MAIN.name and each.rung in RUNGS]
    _draw_throughput([each for each in ladder if each.place.load is SATURATED], folder)
    _draw_responses([each for each in ladder if each.place.load is not SATURATED], folder)


@mpl.rc_context(RC)
def _draw_throughput(found: Sequence[Point], folder: Path) -> None:
    """Requests a second with a backlog: a group of bars for each rung, a bar for each predictor."""
    figure = new_figure(9.0, 4.0)
    axes = figure.subplots()
    for point in found:
        alone = point.rung in UNPREDICTED
        index = 1 if alone else PREDICTORS.index(point.place.predictor)
        mean = point.of("requests_s")
        axes.bar(
            RUNGS.index(point.rung) + BAR_WIDTH * (index - 1),
            mean.mean,
            BAR_WIDTH,
            yerr=np.nan_to_num(mean.half_width),
            color=style_of(point.rung)["color"],
            edgecolor="white",
            hatch="" if alone else HATCHES[index],
            capsize=2,
        )
    axes.set_xticks(range(len(RUNGS)), [rung.replace("-", "-\n") for rung in RUNGS])
    axes.set_ylabel("requests/s with a backlog")
    axes.set_title("lengths predicted by our model (plain), by Magnus's (lines), true (dots)")
    _write(figure, folder, "S1-throughput")


@mpl.rc_context(RC)
def _draw_responses(found: Sequence[Point], folder: Path) -> None:
    """Response by load: a line for each rung, with the lengths of our predictor."""
    figure = new_figure(10.0, 4.2)
    panels = figure.subplots(1, len(RESPONSES), sharex=True)
    mine = [each for each in found if each.place.predictor in (NO_PREDICTOR, OUR_PREDICTOR)]
    for axes, (measure, name) in zip(panels, RESPONSES.items(), strict=True):
        for rung in RUNGS:
            _draw_line(axes, rung, [each for each in mine if each.rung == rung], measure)
        axes.set_xscale("log", base=2)
        axes.set_xticks(loads := [0.5, 1, 2, 4, 8], [f"{load:g}" for load in loads])
        set_log_scale(axes)
        axes.set_title(f"{name} response (s)", fontsize=9)
    figure.supxlabel("load, relative to the saturated rate of fixed")
    add_legend(figure, panels[0])
    _write(figure, folder, "S1-response")


def _draw_line(axes: Axes, rung: str, found: Sequence[Point], measure: str) -> None:
    ordered = sorted(found, key=lambda point: point.place.load or 0.0)
    means = [point.of(measure) for point in ordered]
    axes.errorbar(
        [point.place.load or 0.0 for point in ordered],
        [each.mean for each in means],
        yerr=np.nan_to_num([each.half_width for each in means]),
        marker="o",
        markersize=3,
        capsize=2,
        **style_of(rung),
    )


def _write(figure: Figure, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", format="png")
