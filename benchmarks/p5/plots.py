"""The plot of P5: losses over the number of training rows."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.harness.report import Row
from benchmarks.p5.curve import ADAPTED_LINE, APP_QUANTILES, LINE, OURS
from gateway.evaluation.plots import BLUE, DOTS_PER_INCH, ORANGE
from gateway.pictures import LINE_COLOR, PLOT_STYLE

COLORS = {OURS: BLUE, LINE: ORANGE, ADAPTED_LINE: "#e8b98a", APP_QUANTILES: LINE_COLOR}


@mpl.rc_context(PLOT_STYLE)
def draw_curves(rows: list[Row], folder: Path) -> None:
    """Pinball loss of each predictor over rows, one picture with a panel for each length rule."""
    rules = list(dict.fromkeys(row["lengths"] for row in rows))
    figure = Figure(figsize=(4.6 * len(rules), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, rule in zip(figure.subplots(1, len(rules), squeeze=False)[0], rules, strict=True):
        own = [row for row in rows if row["lengths"] == rule]
        counts = [row["rows"] for row in own]
        for name, color in COLORS.items():
            axes.plot(counts, [row[name] for row in own], color=color, marker="o", label=name)
        full = own[0]["full training"]
        if full is not None:
            axes.axhline(full, color=BLUE, linewidth=1, linestyle=":", label="ours, full training")
            axes.legend()
        highest = max(row[name] for row in own for name in COLORS)
        axes.set(title=rule, xlabel="rows, log scale", xscale="log", ylim=(0, 1.1 * highest))
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        axes.set_xticks([], minor=True)
    figure.axes[0].set_ylabel("pinball loss on log lengths")
    if not any(row["full training"] for row in rows):
        figure.axes[0].legend()
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "P5-curves.png", dpi=DOTS_PER_INCH)
