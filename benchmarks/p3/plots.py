"""P3 as pictures: coverage and τ over outcomes, and errors of new apps."""

from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.p1.families import OPEN
from benchmarks.p3.doubling import BEFORE as BEFORE_DOUBLING
from benchmarks.p3.doubling import Doubling
from benchmarks.p3.new_app import OUTCOMES, NewApp
from benchmarks.p3.shuffled import BEFORE as BEFORE_SHUFFLE
from benchmarks.p3.shuffled import Shuffled
from benchmarks.p3.switch import BEFORE as BEFORE_SWITCH
from benchmarks.p3.switch import Switch
from benchmarks.p3.world import PROMISED, TOLERANCE, WINDOW
from gateway.evaluation.plots import BLUE, DOTS_PER_INCH, ORANGE
from gateway.pictures import LINE_COLOR, PLOT_STYLE
from gateway.prediction.lifecycle.schedule import Schedule
from gateway.prediction.training.scorecard import rms
from gateway.quantiles import Floats

PALE: Final = "#c9d6e3"


@mpl.rc_context(PLOT_STYLE)
def draw_new_apps(found: list[NewApp], folder: Path) -> None:
    """Errors in parts of full training's, over outcomes, a line for each app."""
    figure = _figure(7.0, 4.2)
    axes = figure.subplots()
    axes.axhline(1, color=LINE_COLOR, linewidth=1, linestyle="--")
    for each in found:
        errors = [rms(each.first), *(_mean(each.after[count]) for count in OUTCOMES)]
        color = ORANGE if each.app in OPEN else BLUE
        axes.plot(
            [1, *OUTCOMES], np.array(errors) / rms(each.full), color=color, marker="o", markersize=4
        )
    axes.plot([], color=BLUE, label="input-proportional")
    axes.plot([], color=ORANGE, label="open")
    axes.set(
        title="log-RMSE of an app left out, over that of full training",
        xlabel="outcomes, log scale",
        xscale="log",
        yscale="log",
    )
    axes.set_xticks([1, *OUTCOMES], ["none", *map(str, OUTCOMES)])
    axes.set_yticks([1, 1.15, 1.5, 2, 3, 5], ["1", "1.15", "1.5", "2", "3", "5"])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks([], minor=True)
    axes.legend()
    _write(figure, folder, "P3-new-apps")


@mpl.rc_context(PLOT_STYLE)
def draw_switches(found: list[Switch], folder: Path) -> None:
    """Rolling coverage before and after the mix changed."""
    figure = _figure(10.0, 3.4)
    for axes, each in zip(figure.subplots(1, len(found), sharey=True), found, strict=True):
        _coverage(axes, each.coverage, BEFORE_SWITCH, BLUE, 1.6)
        _promised(axes, f"P90 covers: {each.name}")
    _write(figure, folder, "P3-switch")


@mpl.rc_context(PLOT_STYLE)
def draw_doublings(found: list[Doubling], folder: Path) -> None:
    """Rolling coverage of each doubled app, and by which factor its medians follow."""
    figure = _figure(10.0, 3.8)
    left, right = figure.subplots(1, 2)
    for each in found:
        color = ORANGE if each.app in OPEN else BLUE
        _coverage(left, each.coverage, BEFORE_DOUBLING, color, 0.9)
        places = np.arange(len(each.factor)) - BEFORE_DOUBLING
        right.plot(places, np.exp(each.factor), color=color, linewidth=0.9)
    _promised(left, "P90 covers, app by app")
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
def draw_shuffled(found: Shuffled, folder: Path) -> None:
    """What the monitor measures while lengths are shuffled."""
    figure = _figure(6.0, 3.2)
    axes = figure.subplots()
    axes.plot(np.arange(len(found.tau)) - BEFORE_SHUFFLE, found.tau, color=BLUE)
    axes.axhline(Schedule().tau_floor, color=ORANGE, linewidth=1, linestyle="--", label="floor")
    axes.axvline(0, color=LINE_COLOR, linewidth=1)
    axes.set(title="Kendall's τ as monitored", xlabel="outcomes since lengths are shuffled")
    axes.legend()
    _write(figure, folder, "P3-shuffled")


def _coverage(axes: Axes, means: Floats, before: int, color: str, width: float) -> None:
    """Against the last outcome that each mean is over."""
    places = np.arange(len(means)) + WINDOW - before
    axes.plot(places, 100 * means, color=color, linewidth=width)


def _promised(axes: Axes, title: str) -> None:
    low, high = 100 * (PROMISED - TOLERANCE), 100 * (PROMISED + TOLERANCE)
    axes.axhspan(low, high, color=PALE, zorder=0, linewidth=0)
    axes.axvline(0, color=LINE_COLOR, linewidth=1)
    axes.set(title=title, xlabel=f"outcomes since the change; means of {WINDOW}", ylabel="%")


def _mean(misses: Floats) -> float:
    return float(np.mean([rms(each) for each in misses]))


def _figure(width_inches: float, height_inches: float) -> Figure:
    return Figure((width_inches, height_inches), DOTS_PER_INCH, layout="constrained")


def _write(figure: Figure, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.png", format="png")
