"""Pictures of E1 and E4, drawn from their committed results."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.harness.report import Result, Row
from gateway.evaluation.plots import BLUE, DOTS_PER_INCH, ORANGE
from gateway.pictures import LINE_COLOR, PLOT_STYLE

OURS: Final = "ours"
STYLES: Final = ((BLUE, "-"), (LINE_COLOR, "-"), (LINE_COLOR, "--"), (ORANGE, "-"))


def draw(results: Iterable[Result], plots: Path) -> Iterator[Path]:
    """Draw the pictures of those that have been run; the paths written."""
    by_name = {result.figure: result for result in results}
    for name, picture in (("E1", engines), ("E4", clients)):
        if name in by_name:
            path = plots / name / f"{name}-tokens.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            with mpl.rc_context(PLOT_STYLE):
                picture(by_name[name].rows).savefig(path, format="png")
            yield path


def engines(rows: Iterable[Row]) -> Figure:
    """E1: a panel for each model, a bar for each engine, the fastest first."""
    shown = [row for row in rows if "contestant" in row]
    sizes = list(dict.fromkeys(row["size"] for row in shown))
    figure = Figure((5.0 * len(sizes), 3.4), DOTS_PER_INCH, layout="constrained")
    for axes, size in zip(figure.subplots(1, len(sizes), squeeze=False)[0], sizes, strict=True):
        own = sorted((row for row in shown if row["size"] == size), key=lambda row: row["median"])
        names = [row["contestant"] for row in own]
        colors = [BLUE if name.startswith(OURS) else ORANGE for name in names]
        axes.barh(names, [row["median"] for row in own], color=colors)
        axes.set_axisbelow(True)
        axes.grid(visible=False, axis="y")
        axes.set(title=f"{size}: output tokens/s", xlim=(0, None))
    return figure


def clients(rows: Iterable[Row]) -> Figure:
    """E4: tokens a second by number of clients, a line for each engine."""
    shown = [row for row in rows if {"clients", "engine", "tokens_s"} <= row.keys()]
    figure = Figure((6.0, 3.6), DOTS_PER_INCH, layout="constrained")
    axes = figure.subplots()
    numbers = sorted({row["clients"] for row in shown})
    for index, name in enumerate(sorted({row["engine"] for row in shown}, key=_ours_first)):
        own = sorted((r for r in shown if r["engine"] == name), key=lambda row: row["clients"])
        color, dashes = STYLES[index % len(STYLES)]
        axes.plot(
            [numbers.index(row["clients"]) for row in own],
            [row["tokens_s"] for row in own],
            color=color,
            linestyle=dashes,
            marker="o",
            markersize=4,
            label=name,
        )
    axes.set_xticks(range(len(numbers)), [str(number) for number in numbers])
    axes.set(title="output tokens/s", xlabel="clients", ylim=(0, None))
    axes.legend()
    return figure


def _ours_first(name: str) -> tuple[bool, str]:
    return not name.startswith(OURS), name
