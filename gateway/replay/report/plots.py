"""Plots of a comparison: response by load and length, queue and memory over time, tenants."""

from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gateway.pictures import LINE_COLOR
from gateway.replay.comparison import FCFS, ORACLE
from gateway.replay.measure.metrics import DECILES
from gateway.replay.measure.time_series import TimeSeries
from gateway.replay.plan import PolicyComparison, PolicyRow
from gateway.replay.report.plot_style import (
    RC,
    add_legend,
    color_of,
    new_figure,
    set_log_scale,
    smoothed,
    style_of,
)
from gateway.replay.report.table import load_name

WIDTH: Final = 11.0  # inches
MAX_COLUMNS: Final = 3
MAX_PANELS: Final = 4
MAX_POINTS: Final = 150  # of a line in a plot over time
MIN_WHOLE_SECONDS: Final = 100.0  # from here on labels have no decimals
MEASURES: Final = (("mean_s", "Mean response"), ("p99_s", "p99 response"))


def draw(found: PolicyComparison, folder: Path) -> dict[str, Path]:
    """Write the plots as PNG into an existing folder; returns the files by the plot's name."""
    pictures: dict[str, Callable[[PolicyComparison], Figure]] = {
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


def _response(found: PolicyComparison) -> Figure:
    """Mean and p99 response by policy: over load, or as bars for a single load."""
    return _response_bars(found) if len(_loads(found)) == 1 else _response_curves(found)


def _response_bars(found: PolicyComparison) -> Figure:
    figure = new_figure(WIDTH, 1.2 + 0.4 * len(found.rows))
    for axes, (measure, title) in zip(figure.subplots(1, 2), MEASURES, strict=True):
        _bars(axes, found.rows, measure)
        axes.set_title(title)
    return figure


def _response_curves(found: PolicyComparison) -> Figure:
    """In seconds, and in a second row, if `fcfs` ran, relative to `fcfs`."""
    measured = {(row.policy, row.load): row.measures for row in found.rows}
    rows = 2 if FCFS in _policies(found) else 1
    figure = new_figure(WIDTH, 3.4 * rows + 0.6)
    panels = figure.subplots(rows, 2, squeeze=False, sharex=True)
    loads = [load for load in _loads(found) if load is not None]
    for column, (measure, title) in enumerate(MEASURES):
        for policy in _policies(found):
            known = [measured[policy, load][measure] for load in loads]
            means = [each.mean for each in known]
            halves = [np.nan_to_num(each.half_width) for each in known]
            panels[0, column].errorbar(loads, means, yerr=halves, capsize=2, **_points(policy))
            if rows > 1:
                theirs = [measured[FCFS, load][measure].mean for load in loads]
                panels[1, column].plot(loads, np.divide(means, theirs), **_points(policy))
        panels[0, column].set(title=f"{title}, seconds", xticks=loads)
        panels[-1, column].set_xlabel("load")
        if rows > 1:
            panels[1, column].set_title(f"{title} over that of fcfs")
    for axes in panels.ravel():
        set_log_scale(axes)
    add_legend(figure, panels[0, 0])
    return figure


def _bars(axes: Axes, rows: Sequence[PolicyRow], measure: str) -> None:
    means = [row.measures[measure].mean for row in rows]
    halves = [np.nan_to_num(row.measures[measure].half_width) for row in rows]
    reach = [mean + half for mean, half in zip(means, halves, strict=True)]
    for index, row in enumerate(rows):
        hatch = "///" if row.policy.startswith(ORACLE) else ""
        color = color_of(row.policy)
        axes.barh(index, means[index], height=0.65, color=color, hatch=hatch, edgecolor="white")
        if halves[index]:
            axes.errorbar(means[index], index, xerr=halves[index], color=LINE_COLOR, capsize=3)
        axes.annotate(
            f"{means[index]:,.{1 if means[index] < MIN_WHOLE_SECONDS else 0}f}",
            (reach[index], index),
            (4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(rows)), [row.policy for row in rows])
    axes.set(xlabel="seconds", xlim=(0, 1.15 * max(reach)))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")


def _deciles(found: PolicyComparison) -> Figure:
    """Mean response by decile of true length, a panel for each load."""

    def panel(axes: Axes, load: float | None) -> None:
        numbers = range(1, DECILES + 1)
        for row in found.rows:
            if row.load == load:
                means = [each.mean for each in row.deciles_s]
                axes.plot(numbers, means, **_points(row.policy))
        axes.set_xticks(list(numbers))
        set_log_scale(axes)

    return _panels(found, panel, "decile of true length, shortest first", "mean response, seconds")


def _queue(found: PolicyComparison) -> Figure:
    """Requests waiting over time, a panel for each load."""
    return _over_time(found, lambda time_series: time_series.waiting, "requests waiting")


def _memory(found: PolicyComparison) -> Figure:
    """KV pages in use over time, a panel for each load."""
    return _over_time(found, lambda time_series: 100 * time_series.kv_use, "KV pages in use, %")


def _over_time(found: PolicyComparison, series: Callable[[TimeSeries], Any], label: str) -> Figure:
    def panel(axes: Axes, load: float | None) -> None:
        for row in found.rows:
            time_series = found.time_series.get((row.policy, load))
            if row.load == load and time_series is not None:
                axes.plot(
                    *smoothed(time_series.time_s, series(time_series), MAX_POINTS),
                    **style_of(row.policy),
                )
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)

    return _panels(found, panel, "seconds", label)


def _tenants(found: PolicyComparison) -> Figure:
    """Tokens a second by tenant over time at the highest load, a panel for each policy."""
    load = _loads(found)[-1]
    policies = _policies(found)
    columns = _columns(len(policies))
    rows = ceil(len(policies) / columns)
    figure = new_figure(WIDTH, 2.6 * rows + 0.6)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    panels = grid.ravel().tolist()
    for axes, policy in zip(panels, policies, strict=False):
        time_series = found.time_series[policy, load]
        middles = (time_series.edges_s[1:] + time_series.edges_s[:-1]) / 2
        colors = mpl.color_sequences["tab10"]
        axes.stackplot(
            middles, *time_series.served.values(), labels=list(time_series.served), colors=colors
        )
        axes.set_title(policy)
        axes.tick_params(labelbottom=True)
    _blank(panels[len(policies) :])
    figure.supxlabel("seconds")
    figure.supylabel("tokens/s of the answers that ended")
    add_legend(figure, panels[0])
    return figure


def _panels(
    found: PolicyComparison, panel: Callable[[Axes, float | None], None], x_label: str, y_label: str
) -> Figure:
    """A panel for each of at most `MAX_PANELS` loads, evenly spread over all."""
    loads = _loads(found)
    indices = np.linspace(0, len(loads) - 1, min(len(loads), MAX_PANELS)).round().astype(int)
    picked = [loads[index] for index in indices]
    columns = _columns(len(picked))
    rows = ceil(len(picked) / columns)
    figure = new_figure(WIDTH, (3.3 if columns > 1 else 4.2) * rows + 0.6)
    panels = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes, load in zip(panels, picked, strict=False):
        panel(axes, load)
        if load is not None:
            axes.set_title(f"load {load_name(load)}")
    _blank(panels[len(picked) :])
    figure.supxlabel(x_label)
    figure.supylabel(y_label)
    add_legend(figure, panels[0])
    return figure


def _columns(panels: int) -> int:
    """The number of panels in a row, with few empty places."""
    return 2 if panels == 2 * 2 else min(panels, MAX_COLUMNS)


def _blank(panels: Sequence[Axes]) -> None:
    for axes in panels:
        axes.set_axis_off()


def _points(policy: str) -> dict[str, Any]:
    """A policy's line style with point markers."""
    return {**style_of(policy), "marker": "o", "markersize": 4}


def _loads(found: PolicyComparison) -> list[float | None]:
    return list(dict.fromkeys(row.load for row in found.rows))


def _policies(found: PolicyComparison) -> list[str]:
    return list(dict.fromkeys(row.policy for row in found.rows))
