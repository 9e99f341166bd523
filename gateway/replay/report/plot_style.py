"""The style of a replay's plots: colours of policies, axes, legends."""

from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.typing import RcKeyType

from gateway.pictures import LINE_COLOR, PLOT_STYLE
from gateway.replay.comparison import ORACLE

DOTS_PER_INCH: Final = 100
DECADE_LABELS_RATIO: Final = (
    1_000.0  # of highest to lowest value: above, labels at powers of ten only
)
DENSE_LABELS_RATIO: Final = 30.0  # below, more labels in each decade
COLORS: Final = {
    "fcfs": "#8a9099",
    "sjf": "#d9822b",
    "hrrn": "#8d6bb3",
    "lmaas": "#1f6fb4",
    "s3": "#3f9e6e",
    "magnus": "#c0504d",
    "magnus-fcfs": "#e08e79",
    "fixed-predicted": "#b08d57",
    "fixed": "#7a5c3e",
    "conservative-continuous": "#4f9d9d",
}
RC: Final[dict[RcKeyType, Any]] = {**PLOT_STYLE, "axes.axisbelow": True, "figure.labelsize": 10}


def color_of(policy: str) -> str:
    """A policy's colour, the same for its oracle."""
    return COLORS.get(policy.removeprefix(ORACLE), LINE_COLOR)


def style_of(policy: str) -> dict[str, Any]:
    """A policy's line style; an oracle's line is dashed and on top."""
    oracle = policy.startswith(ORACLE)
    return {
        "color": color_of(policy),
        "label": policy,
        "linestyle": (0, (3, 1.5)) if oracle else "-",
        "linewidth": 1.6,
        "zorder": 3 if oracle else 2,
    }


def set_log_scale(axes: Axes) -> None:
    """A log scale on the y axis, with plain numbers as tick labels."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    subs: tuple[float, ...] = (1, 2, 5)
    if high > DECADE_LABELS_RATIO * low:
        subs = (1,)
    elif high < DENSE_LABELS_RATIO * low:
        subs = (1, 1.5, 2, 3, 4, 5, 7)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def smoothed(
    times: np.ndarray[Any, Any], values: np.ndarray[Any, Any], points: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A series as means of at most `points` parts with equal numbers of samples."""
    parts = max(min(points, len(times)), 1)
    means = [
        [float(part.mean()) for part in np.array_split(each, parts)] for each in (times, values)
    ]
    return np.array(means[0]), np.array(means[1])


def add_legend(figure: Figure, axes: Axes) -> None:
    """A legend for the lines of `axes`, above all panels."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 8))


def new_figure(width_inches: float, height_inches: float) -> Figure:
    """An empty figure."""
    return Figure((width_inches, height_inches), DOTS_PER_INCH, layout="constrained")
