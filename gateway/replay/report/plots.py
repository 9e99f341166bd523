"""A comparison as pictures: response over load and length, queue and memory over time, tenants."""

from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gateway.pictures import LINE_COLOR
from gateway.replay.comparison import FIRST_COME, ORACLE
from gateway.replay.measure.metrics import DECILES
from gateway.replay.measure.time_series import Course
from gateway.replay.plan import Comparison, Row
from gateway.replay.report.plot_style import (
    RC,
    add_legend,
    color_of,
    logarithmic,
    new_figure,
    smoothed,
    style_of,
)
from gateway.replay.report.table import load_name

WIDTH: Final = 11.0  # inches
IN_A_ROW: Final = 3
PANELS: Final = 4
POINTS: Final = 150  # of a line over time
TENTHS: Final = 100.0  # from here on whole seconds do
MEASURES: Final = (("mean_s", "Mean response"), ("p99_s", "p99 response"))


def draw(found: Comparison, folder: Path) -> dict[str, Path]:
    """Writes the pictures as PNG into a folder that is there; the files by the picture's name."""
    pictures: dict[str, Callable[[Comparison], Figure]] = {
        "response": _response,
        "deciles": _deciles,
        "queue": _queue,
        "memory": _memory,
    }
    if len(found.rows[0].served) > 1:
        pictures["tenants"] = _tenants
    written = {}
    with mpl.rc_context(RC):
        for name, picture in pictures.items():
            written[name] = folder / f"{name}.png"
            picture(found).savefig(written[name], format="png")
    return written


def _response(found: Comparison) -> Figure:
    """Mean and p99 response by policy: over load, or as bars where there is one load."""
    return _response_bars(found) if len(_loads(found)) == 1 else _response_curves(found)


def _response_bars(found: Comparison) -> Figure:
    figure = new_figure(WIDTH, 1.2 + 0.4 * len(found.rows))
    for axes, (measure, title) in zip(figure.subplots(1, 2), MEASURES, strict=True):
        _bars(axes, found.rows, measure)
        axes.set_title(title)
    return figure


def _response_curves(found: Comparison) -> Figure:
    """In seconds, and below, where `fcfs` ran, over its."""
    measured = {(row.policy, row.load): row.measures for row in found.rows}
    high = 2 if FIRST_COME in _policies(found) else 1
    figure = new_figure(WIDTH, 3.4 * high + 0.6)
    panels = figure.subplots(high, 2, squeeze=False, sharex=True)
    loads = [load for load in _loads(found) if load is not None]
    for column, (measure, title) in enumerate(MEASURES):
        for policy in _policies(found):
            known = [measured[policy, load][measure] for load in loads]
            means = [each.mean for each in known]
            halves = [np.nan_to_num(each.half) for each in known]
            panels[0, column].errorbar(loads, means, yerr=halves, capsize=2, **_points(policy))
            if high > 1:
                theirs = [measured[FIRST_COME, load][measure].mean for load in loads]
                panels[1, column].plot(loads, np.divide(means, theirs), **_points(policy))
        panels[0, column].set(title=f"{title}, seconds", xticks=loads)
        panels[-1, column].set_xlabel("load")
        if high > 1:
            panels[1, column].set_title(f"{title} over that of fcfs")
    for axes in panels.ravel():
        logarithmic(axes)
    add_legend(figure, panels[0, 0])
    return figure


def _bars(axes: Axes, rows: Sequence[Row], measure: str) -> None:
    means = [row.measures[measure].mean for row in rows]
    halves = [np.nan_to_num(row.measures[measure].half) for row in rows]
    reach = [mean + half for mean, half in zip(means, halves, strict=True)]
    for place, row in enumerate(rows):
        hatch = "///" if row.policy.startswith(ORACLE) else ""
        color = color_of(row.policy)
        axes.barh(place, means[place], height=0.65, color=color, hatch=hatch, edgecolor="white")
        if halves[place]:
            axes.errorbar(means[place], place, xerr=halves[place], color=LINE_COLOR, capsize=3)
        axes.annotate(
            f"{means[place]:,.{1 if means[place] < TENTHS else 0}f}",
            (reach[place], place),
            (4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(rows)), [row.policy for row in rows])
    axes.set(xlabel="seconds", xlim=(0, 1.15 * max(reach)))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


def _deciles(found: Comparison) -> Figure:
    """Mean response by decile of true length, a panel for each load."""

    def panel(axes: Axes, load: float | None) -> None:
        numbers = range(1, DECILES + 1)
        for row in found.rows:
            if row.load == load:
                means = [each.mean for each in row.deciles_s]
                axes.plot(numbers, means, **_points(row.policy))
        axes.set_xticks(list(numbers))
        logarithmic(axes)

    return _panels(found, panel, "decile of true length, shortest first", "mean response, seconds")


def _queue(found: Comparison) -> Figure:
    """Requests waiting over time, a panel for each load."""
    return _over_time(found, lambda course: course.waiting, "requests waiting")


def _memory(found: Comparison) -> Figure:
    """KV pages in use over time, a panel for each load."""
    return _over_time(found, lambda course: 100 * course.kv_use, "KV pages in use, %")


def _over_time(found: Comparison, series: Callable[[Course], Any], label: str) -> Figure:
    def panel(axes: Axes, load: float | None) -> None:
        for row in found.rows:
            course = found.courses.get((row.policy, load))
            if row.load == load and course is not None:
                axes.plot(*smoothed(course.time_s, series(course), POINTS), **style_of(row.policy))
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)

    return _panels(found, panel, "seconds", label)


def _tenants(found: Comparison) -> Figure:
    """Tokens a second by tenant over time at the highest load, a panel for each policy."""
    load = _loads(found)[-1]
    policies = _policies(found)
    wide = _wide(len(policies))
    high = ceil(len(policies) / wide)
    figure = new_figure(WIDTH, 2.6 * high + 0.6)
    grid = figure.subplots(high, wide, squeeze=False, sharex=True, sharey=True)
    panels = grid.ravel().tolist()
    for axes, policy in zip(panels, policies, strict=False):
        course = found.courses[policy, load]
        middles = (course.edges_s[1:] + course.edges_s[:-1]) / 2
        colors = mpl.color_sequences["tab10"]
        axes.stackplot(middles, *course.served.values(), labels=list(course.served), colors=colors)
        axes.set_title(policy)
        axes.tick_params(labelbottom=True)
    _blank(panels[len(policies) :])
    figure.supxlabel("seconds")
    figure.supylabel("tokens/s of the answers that ended")
    add_legend(figure, panels[0])
    return figure


def _panels(
    found: Comparison, panel: Callable[[Axes, float | None], None], across: str, up: str
) -> Figure:
    """A panel for each of at most PANELS loads, spread over all."""
    loads = _loads(found)
    places = np.linspace(0, len(loads) - 1, min(len(loads), PANELS)).round().astype(int)
    picked = [loads[place] for place in places]
    wide = _wide(len(picked))
    high = ceil(len(picked) / wide)
    figure = new_figure(WIDTH, (3.3 if wide > 1 else 4.2) * high + 0.6)
    panels = figure.subplots(high, wide, squeeze=False).ravel().tolist()
    for axes, load in zip(panels, picked, strict=False):
        panel(axes, load)
        if load is not None:
            axes.set_title(f"load {load_name(load)}")
    _blank(panels[len(picked) :])
    figure.supxlabel(across)
    figure.supylabel(up)
    add_legend(figure, panels[0])
    return figure


def _wide(panels: int) -> int:
    """How many panels stand in a row: few empty places, none too narrow."""
    return 2 if panels == 2 * 2 else min(panels, IN_A_ROW)


def _blank(panels: Sequence[Axes]) -> None:
    for axes in panels:
        axes.set_axis_off()


def _points(policy: str) -> dict[str, Any]:
    """A line with its points marked."""
    return {**style_of(policy), "marker": "o", "markersize": 4}


def _loads(found: Comparison) -> list[float | None]:
    return list(dict.fromkeys(row.load for row in found.rows))


def _policies(found: Comparison) -> list[str]:
    return list(dict.fromkeys(row.policy for row in found.rows))
