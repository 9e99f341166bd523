"""Plots of P3: coverage and τ over outcomes, and errors of new apps."""

from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.p1.families import OPEN_ENDED
from benchmarks.p3.doubling import OUTCOMES_BEFORE as BEFORE_DOUBLING
from benchmarks.p3.doubling import Doubling
from benchmarks.p3.new_app import OUTCOME_COUNTS, NewApp
from benchmarks.p3.shuffled import OUTCOMES_BEFORE as BEFORE_SHUFFLE
from benchmarks.p3.shuffled import ShuffledLengths
from benchmarks.p3.switch import OUTCOMES_BEFORE as BEFORE_SWITCH
from benchmarks.p3.switch import MixChange
from benchmarks.p3.world import COVERAGE_TOLERANCE, COVERAGE_WINDOW, NOMINAL_COVERAGE
from gateway.evaluation.plots import BLUE, DOTS_PER_INCH, ORANGE
from gateway.pictures import LINE_COLOR, PLOT_STYLE
from gateway.prediction.lifecycle.schedule import Schedule
from gateway.prediction.training.scorecard import rms
from gateway.quantiles import Floats

BAND_COLOR: Final = "#c9d6e3"


@mpl.rc_context(PLOT_STYLE)
def draw_new_apps(found: list[NewApp], folder: Path) -> None:
    """Errors relative to full training, over outcomes, a line per app."""
    figure = _figure(7.0, 4.2)
    axes = figure.subplots()
    axes.axhline(1, color=LINE_COLOR, linewidth=1, linestyle="--")
    for each in found:
        errors = [rms(each.first), *(_mean(each.after[count]) for count in OUTCOME_COUNTS)]
        color = ORANGE if each.app in OPEN_ENDED else BLUE
        axes.plot(
            [1, *OUTCOME_COUNTS],
            np.array(errors) / rms(each.full),
            color=color,
            marker="o",
            markersize=4,
        )
    axes.plot([], color=BLUE, label="input-proportional")
    axes.plot([], color=ORANGE, label="open")
    axes.set(
        title="log-RMSE of an app left out, over that of full training",
        xlabel="outcomes, log scale",
        xscale="log",
        yscale="log",
    )
    axes.set_xticks([1, *OUTCOME_COUNTS], ["none", *map(str, OUTCOME_COUNTS)])
    axes.set_yticks([1, 1.15, 1.5, 2, 3, 5], ["1", "1.15", "1.5", "2", "3", "5"])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks([], minor=True)
    axes.legend()
    _write(figure, folder, "P3-new-apps")


@mpl.rc_context(PLOT_STYLE)
def draw_switches(found: list[MixChange], folder: Path) -> None:
    """Rolling coverage before and after the change of the mix."""
    figure = _figure(10.0, 3.4)
    for axes, each in zip(figure.subplots(1, len(found), sharey=True), found, strict=True):
        _coverage(axes, each.coverage, BEFORE_SWITCH, BLUE, 1.6)
        _nominal_band(axes, f"P90 covers: {each.name}")
    _write(figure, folder, "P3-switch")


@mpl.rc_context(PLOT_STYLE)
def draw_doublings(found: list[Doubling], folder: Path) -> None:
    """Rolling coverage of each doubled app, and the factor of its medians."""
    figure = _figure(10.0, 3.8)
    left, right = figure.subplots(1, 2)
    for each in found:
        color = ORANGE if each.app in OPEN_ENDED else BLUE
        _coverage(left, each.coverage, BEFORE_DOUBLING, color, 0.9)
        places = np.arange(len(each.factor)) - BEFORE_DOUBLING
        right.plot(places, np.exp(each.factor), color=color, linewidth=0.9)
    _nominal_band(left, "P90 covers, app by app")
    right.axhline(2, color=LINE_COLOR, linewidth=1, linestyle="--")
    right.axvline(0, color=LINE_COLOR, linewidth=1)
    right.set(
        title="Factor on the median", xlabel="outcomes since answers doubled", xlim=(-50, 300)
    )
    right.plot([], color=BLUE, label="input-proportional")
    right.plot([], color=ORANGE, label="open")
    right.legend(loc="lower right")
    _write(figure, folder, "P3-doubling")


@mpl.rc_context(PLOT_STYLE)
def draw_shuffled(found: ShuffledLengths, folder: Path) -> None:
    """The monitored τ before and after lengths are shuffled."""
    figure = _figure(6.0, 3.2)
    axes = figure.subplots()
    axes.plot(np.arange(len(found.tau)) - BEFORE_SHUFFLE, found.tau, color=BLUE)
    axes.axhline(Schedule().tau_floor, color=ORANGE, linewidth=1, linestyle="--", label="floor")
    axes.axvline(0, color=LINE_COLOR, linewidth=1)
    axes.set(title="Kendall's τ as monitored", xlabel="outcomes since lengths are shuffled")
    axes.legend()
    _write(figure, folder, "P3-shuffled")


def _coverage(axes: Axes, means: Floats, before: int, color: str, width: float) -> None:
    """Plot rolling means against the last outcome of their window."""
    places = np.arange(len(means)) + COVERAGE_WINDOW - before
    axes.plot(places, 100 * means, color=color, linewidth=width)


def _nominal_band(axes: Axes, title: str) -> None:
    low, high = (
        100 * (NOMINAL_COVERAGE - COVERAGE_TOLERANCE),
        100 * (NOMINAL_COVERAGE + COVERAGE_TOLERANCE),
    )
    axes.axhspan(low, high, color=BAND_COLOR, zorder=0, linewidth=0)
    axes.axvline(0, color=LINE_COLOR, linewidth=1)
    axes.set(
        title=title, xlabel=f"outcomes since the change; means of {COVERAGE_WINDOW}", ylabel="%"
    )


def _mean(misses: Floats) -> float:
    return float(np.mean([rms(each) for each in misses]))


def _figure(width_inches: float, height_inches: float) -> Figure:
    return Figure((width_inches, height_inches), DOTS_PER_INCH, layout="constrained")


def _write(figure: Figure, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", format="png")
