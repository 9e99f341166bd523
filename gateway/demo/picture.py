"""The outcomes as a picture: predicted against actual lengths, response times by policy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import ColorType, RcKeyType

from gateway.demo.figures import Passes, mean_error, mean_response, response_quantile
from gateway.demo.sending import Outcome
from gateway.pictures import LINE, LOOK

SIZE_INCHES: Final = (12.0, 5.0)
DOTS_PER_INCH: Final = 100
GREY: Final = "#b4b8bf"
LMAAS: Final = "#1f6fb4"
FIXED: Final = "#d9822b"
LARGE: Final[dict[RcKeyType, Any]] = {**LOOK, "font.size": 11, "axes.titlesize": 13}


def draw(passes: Passes, path: Path) -> None:
    """Writes the picture as PNG, 1200 x 500 pixels."""
    with mpl.rc_context(LARGE):
        figure = Figure(SIZE_INCHES, DOTS_PER_INCH, layout="constrained")
        lengths, responses = figure.subplots(1, 2)
        _draw_lengths(lengths, passes)
        _draw_responses(responses, passes)
        figure.savefig(path, format="png")


def _draw_lengths(axes: Axes, passes: Passes) -> None:
    every = [*passes.before, *passes.after]
    longest = 1.05 * max(max(each.actual, each.predicted) for each in every)
    axes.plot([0, longest], [0, longest], color=LINE, linewidth=1, linestyle="--", zorder=1)
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


def _scatter(axes: Axes, outcomes: Sequence[Outcome], color: ColorType, label: str) -> None:
    axes.scatter(
        [outcome.actual for outcome in outcomes],
        [outcome.predicted for outcome in outcomes],
        s=22,
        color=color,
        label=label,
        alpha=0.85,
        linewidths=0,
        zorder=2,
    )


def _draw_responses(axes: Axes, passes: Passes) -> None:
    longest_s = max(outcome.response_s for outcome in (*passes.after, *passes.fixed))
    for name, color, outcomes in (
        ("lmaas", LMAAS, passes.after),
        ("fixed batches", FIXED, passes.fixed),
    ):
        times = [*sorted(outcome.response_s for outcome in outcomes), longest_s]
        shares = [min(100 * place / len(outcomes), 100) for place in range(1, len(times) + 1)]
        label = f"{name}: mean {mean_response(outcomes):.1f} s"
        axes.step(times, shares, where="post", color=color, linewidth=2.5, label=label)
        p90 = response_quantile(outcomes, 0.9)
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
