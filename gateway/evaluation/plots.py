"""Plots of a run: lengths by app, errors of all predictors, coverage, mid-flight errors."""

from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from gateway.evaluation.experiment import OURS, EvaluationRun, EvaluationSummary
from gateway.evaluation.midflight import SHARES
from gateway.evaluation.peers import PEERS
from gateway.evaluation.scoring import POOLED
from gateway.pictures import LINE_COLOR, PLOT_STYLE

DOTS_PER_INCH: Final = 80
MAX_COLUMNS: Final = 5
TICKS: Final = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
SPARSE_TICKS_RATIO: Final = 200.0  # axis range above which every second tick is drawn
NOMINAL_COVERAGE_PERCENT: Final = 90.0  # % of lengths within the 0.9 quantile
BLUE: Final = "#1f6fb4"
ORANGE: Final = "#d9822b"
BASELINE_COLORS: Final = ("#b4b8bf", "#8d6bb3", "#c2547d", "#3f9e6e", ORANGE)
MARKERS: Final = "v^PsD"


def draw(run: EvaluationRun, folder: Path, prefix: str = "") -> list[Path]:
    """Write the plots as PNG into a folder, created if missing; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, Callable[[EvaluationRun], Figure]] = {
        "lengths": _lengths,
        "errors": _errors,
        "coverage": _coverage,
        "midflight": _midflight,
    }
    written = []
    with mpl.rc_context(PLOT_STYLE):
        for name, picture in pictures.items():
            path = folder / f"{prefix}{name}.png"
            picture(run).savefig(path, format="png")
            written.append(path)
    return written


def _lengths(run: EvaluationRun) -> Figure:
    """Predicted median against actual length, on log axes, a panel per app."""
    cards = run.summary.scores[OURS]
    apps = [app for app in cards if app != POOLED]
    rows = ceil(len(apps) / MAX_COLUMNS)
    columns = min(len(apps), MAX_COLUMNS)
    figure = _figure(max(2.6 * columns, 4.0), 2.6 * rows + 0.4)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    median = run.forecasts[OURS].median
    for axes, app in zip(panels, apps, strict=False):
        in_app = run.names == app
        actual, predicted = run.tokens[in_app], median[in_app]
        ends = [0.8 * min(actual.min(), predicted.min()), 1.25 * max(actual.max(), predicted.max())]
        axes.plot(ends, ends, color=LINE_COLOR, linewidth=1, linestyle="--", zorder=1)
        axes.scatter(actual, predicted, s=7, color=BLUE, alpha=0.35, linewidths=0, zorder=2)
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        known = TICKS[::2] if ends[1] > SPARSE_TICKS_RATIO * ends[0] else TICKS
        ticks = [tick for tick in known if ends[0] <= tick <= ends[1]]
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(ticks, [f"{tick:,}" for tick in ticks])
            axis.set_ticks([], minor=True)
        axes.set_title(f"{app}  τ {cards[app].tau:.2f}", fontsize=9)
    for axes in panels[len(apps) :]:
        axes.set_axis_off()
    figure.supxlabel("actual length (tokens)")
    figure.supylabel("predicted median (tokens)")
    return figure


def _errors(run: EvaluationRun) -> Figure:
    """log-RMSE and τ of each predictor by app, in order of our error."""
    scores = run.summary.scores
    order = _apps_by_error(run.summary)
    figure = _figure(11.0, 1.6 + 0.3 * len(order))
    left, right = figure.subplots(1, 2, sharey=True)
    for name, color, marker in _contenders(run.summary):
        for axes, field in ((left, "log_rmse_mean"), (right, "tau")):
            values = [getattr(scores[name][app], field) for app in order]
            size = 70 if name == OURS else 30
            axes.scatter(
                values, range(len(order)), s=size, color=color, marker=marker, label=name, zorder=3
            )
    left.set(title="Root mean square error of log(1 + tokens)", xlim=(0, None))
    left.set_yticks(range(len(order)), order)
    right.set(title="Kendall's τ")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _coverage(run: EvaluationRun) -> Figure:
    """Coverage of the 0.9 quantile by app with its interval, and its ratio to the length."""
    cards = run.summary.scores[OURS]
    order = _apps_by_error(run.summary)
    figure = _figure(11.0, 1.5 + 0.3 * len(order))
    left, right = figure.subplots(1, 2, sharey=True)
    found = [cards[app] for app in order]
    share = 100 * np.array([card.coverage for card in found])
    low = share - 100 * np.array([card.coverage_low for card in found])
    rows = 100 * np.array([card.coverage_high for card in found]) - share
    left.axvspan(
        NOMINAL_COVERAGE_PERCENT - 2, NOMINAL_COVERAGE_PERCENT + 2, color="#dcecf7", zorder=0
    )
    left.errorbar(
        share, range(len(order)), xerr=np.maximum([low, rows], 0), fmt="o", color=BLUE, capsize=3
    )
    left.set(title="Lengths within P90, with 95 % interval", xlabel="%")
    left.set_yticks(range(len(order)), order)
    for field, label, color, marker in (
        ("over_mean", "mean of the ratios", BLUE, "o"),
        ("over_median", "median of the ratios", ORANGE, "D"),
        ("over_total", "ratio of the sums", LINE_COLOR, "s"),
    ):
        ratios = [getattr(card, field) for card in found]
        right.scatter(ratios, range(len(order)), s=30, color=color, marker=marker, label=label)
    right.set(title="P90 over the actual length", xlabel="ratio, log scale", xscale="log")
    ticks = [ratio for ratio in (1, 1.5, 2, 3, 5, 10) if ratio <= right.get_xlim()[1]]
    right.set_xticks(ticks, [f"{ratio:g}" for ratio in ticks])
    right.set_xticks([], minor=True)
    right.legend(loc="lower right")
    return figure


def _midflight(run: EvaluationRun) -> Figure:
    """Error of the remaining length, conditional over static, by app."""
    order = _apps_by_error(run.summary)
    figure = _figure(7.0, 1.5 + 0.3 * len(order))
    axes = figure.subplots()
    axes.axvline(1, color=LINE_COLOR, linewidth=1, linestyle="--", zorder=1)
    for share, color, marker in zip(SHARES, (ORANGE, BLUE), "Do", strict=True):
        found = {each.app: each for each in run.summary.midflight if each.share == share}
        ratios = {app: each.conditional_mae / each.static_mae for app, each in found.items()}
        ys = [y for y, app in enumerate(order) if app in ratios]
        axes.scatter(
            [ratios[order[y]] for y in ys],
            ys,
            s=45,
            color=color,
            marker=marker,
            label=f"after {share:.0%} of the answer",
            zorder=2,
        )
    axes.set(
        title="Error of the remaining length, re-predicted over static",
        xlabel="ratio of the mean absolute errors",
    )
    axes.set_yticks(range(len(order)), order)
    figure.legend(loc="outside lower center", ncols=len(SHARES))
    return figure


def _apps_by_error(summary: EvaluationSummary) -> list[str]:
    """The apps by our error, ascending, then POOLED."""
    cards = summary.scores[OURS]
    apps = [app for app in cards if app != POOLED]
    return [*sorted(apps, key=lambda app: cards[app].log_rmse_mean), POOLED]


def _contenders(summary: EvaluationSummary) -> list[tuple[str, str, str]]:
    """Name, colour and marker of each predictor but peers; ours is drawn last, on top."""
    others = [name for name in summary.scores if name not in (OURS, *PEERS)]
    styles = zip(others, BASELINE_COLORS, MARKERS, strict=True) if others else ()
    return [*styles, (OURS, BLUE, "o")]


def _figure(width_inches: float, height_inches: float) -> Figure:
    return Figure((width_inches, height_inches), DOTS_PER_INCH, layout="constrained")
