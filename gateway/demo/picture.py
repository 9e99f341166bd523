"""Plots of the results: predicted against actual lengths, response times by policy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import ColorType, RcKeyType

from gateway.demo.figures import DemoPasses, mean_error, mean_response, response_quantile
from gateway.demo.sending import DemoResult
from gateway.pictures import LINE_COLOR, PLOT_STYLE

SIZE_INCHES: Final = (12.0, 5.0)
DOTS_PER_INCH: Final = 100
GREY: Final = "#b4b8bf"
LMAAS: Final = "#1f6fb4"
FIXED: Final = "#d9822b"
FIGURE_STYLE: Final[dict[RcKeyType, Any]] = {**PLOT_STYLE, "font.size": 11, "axes.titlesize": 13}


def draw(passes: DemoPasses, path: Path) -> None:
    """Write the plots as a PNG of 1200 x 500 pixels."""
    with mpl.rc_context(FIGURE_STYLE):
        figure = Figure(SIZE_INCHES, DOTS_PER_INCH, layout="constrained")
        lengths, responses = figure.subplots(1, 2)
        _draw_lengths(lengths, passes)
        _draw_responses(responses, passes)
        figure.savefig(path, format="png")


def _draw_lengths(axes: Axes, passes: DemoPasses) -> None:
    results = [*passes.before, *passes.after]
    longest = 1.05 * max(max(each.actual, each.predicted) for each in results)
    axes.plot([0, longest], [0, longest], color=LINE_COLOR, linewidth=1, linestyle="--", zorder=1)
    _scatter(axes, passes.before, GREY, f"before training (off by {mean_error(passes.before):.0f})")
    colors = mpl.color_sequences["tab10"]
    for color, app in zip(colors, passes.apps(), strict=False):
        _scatter(axes, passes.of(app).after, color, app)
    axes.set(
        title=f"Predicted lengths: off by {mean_error(passes.after):.0f} tokens after training",
        xlabel="actual length (tokens)",
        ylabel="predicted length (tokens)",
        xlim=(0, longest),
        ylim=(0, longest),
    )
    axes.legend(loc="upper left", fontsize=9, ncols=2)


def _scatter(axes: Axes, results: Sequence[DemoResult], color: ColorType, label: str) -> None:
    axes.scatter(
        [result.actual for result in results],
        [result.predicted for result in results],
        s=22,
        color=color,
        label=label,
        alpha=0.85,
        linewidths=0,
        zorder=2,
    )


def _draw_responses(axes: Axes, passes: DemoPasses) -> None:
    longest_s = max(result.response_s for result in (*passes.after, *passes.fixed))
    for name, color, results in (
        ("lmaas", LMAAS, passes.after),
        ("fixed batches", FIXED, passes.fixed),
    ):
        times = [*sorted(result.response_s for result in results), longest_s]
        percentages = [min(100 * rank / len(results), 100) for rank in range(1, len(times) + 1)]
        label = f"{name}: mean {mean_response(results):.1f} s"
        axes.step(times, percentages, where="post", color=color, linewidth=2.5, label=label)
        p90 = response_quantile(results, 0.9)
        axes.plot([p90], [90], "o", color=color)
        axes.annotate(
            f"p90 {p90:.1f} s", (p90, 90), (8, -14), textcoords="offset points", color=color
        )
    axes.set(
        title="Response times of the same questions",
        xlabel="response time (s)",
        ylabel="requests answered by then (%)",
        xlim=(0, 1.02 * longest_s),
        ylim=(0, 101),
    )
    axes.legend(loc="lower right")
