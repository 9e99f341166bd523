"""Picture of the learning benchmark: error, coverage and response times over the requests."""

from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.learning.passes import Pass
from benchmarks.learning.rows import (
    COVERAGE_TOLERANCE,
    WINDOW,
    Passes,
    coverage_error,
)
from gateway.evaluation.plots import BLUE, DOTS_PER_INCH, ORANGE
from gateway.pictures import LINE_COLOR, PLOT_STYLE
from gateway.prediction.training.scorecard import evaluate
from gateway.quantiles import Floats

NAME: Final = "learning"
BAND_COLOR: Final = "#c9d6e3"
STEP: Final = 5  # requests from one point to the next


@mpl.rc_context(PLOT_STYLE)
def draw(passes: Passes, folder: Path) -> None:
    """Three panels, each value over the last WINDOW requests, against the last of them."""
    figure = Figure((12.0, 3.6), DOTS_PER_INCH, layout="constrained")
    error, covers, response = figure.subplots(1, 3)
    for each, color, label in (
        (passes.off, ORANGE, "learning off"),
        (passes.on, BLUE, "learning on"),
    ):
        ends, errors, coverages = rolling(each)
        error.plot(ends, errors, color=color, label=label)
        covers.plot(ends, 100 * coverages, color=color)
    error.set(title="log-RMSE of the median")
    error.legend(loc="upper right")
    covers.axhspan(
        -100 * COVERAGE_TOLERANCE,
        100 * COVERAGE_TOLERANCE,
        color=BAND_COLOR,
        zorder=0,
        linewidth=0,
    )
    covers.set(title="P90 coverage off, percentage points")
    ends = window_ends(len(passes.on))
    ratios = [
        passes.on.response_s[end - WINDOW : end].mean()
        / passes.off.response_s[end - WINDOW : end].mean()
        for end in ends
    ]
    response.plot(ends, ratios, color=BLUE)
    response.axhline(1, color=LINE_COLOR, linewidth=1, linestyle="--")
    response.set(title="mean response over FCFS's", ylim=(0, None))
    for axes in (error, covers, response):
        _mark(axes, passes)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{NAME}.png", format="png")


def window_ends(count: int) -> list[int]:
    """The ends of the windows, in requests."""
    return list(range(min(WINDOW, count), count + 1, STEP))


def rolling(each: Pass) -> tuple[list[int], Floats, Floats]:
    """Ends of the windows; log-RMSE and coverage less the expected one in each."""
    ends = window_ends(len(each))
    errors, coverages = [], []
    for end in ends:
        rows = slice(max(end - WINDOW, 0), end)
        tokens, quantiles = each.tokens[rows], each.quantiles[rows]
        errors.append(evaluate(tokens, quantiles).log_rmse_median)
        coverages.append(coverage_error(tokens, quantiles))
    return ends, np.array(errors), np.array(coverages)


def _mark(axes: Axes, passes: Passes) -> None:
    """Dotted lines where a version became active, a solid one where the mix changed."""
    for place in passes.on.activated:
        axes.axvline(place, color=BLUE, linewidth=1, linestyle=":")
    axes.axvline(passes.changed, color=LINE_COLOR, linewidth=1)
    axes.set(xlabel=f"requests; over the last {WINDOW}", xlim=(0, len(passes.on)))
