"""S0 as a picture: response times of the live gateway and of its replay, from short to long."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from gateway.evaluation.plots import BLUE, DOTS_PER_INCH, ORANGE
from gateway.pictures import PLOT_STYLE

if TYPE_CHECKING:
    from benchmarks.live.run import Pass

NAME: Final = "S0-live-replay"


@mpl.rc_context(PLOT_STYLE)
def draw(passes: "dict[str, Pass]", folder: Path) -> None:
    """A panel for each policy: the share of requests answered within a time."""
    figure = Figure((5.0 * len(passes), 3.6), DOTS_PER_INCH, layout="constrained")
    panels = figure.subplots(1, len(passes), squeeze=False, sharey=True)[0]
    for axes, (policy, passed) in zip(panels, passes.items(), strict=True):
        share = np.arange(1, len(passed.served.response_s) + 1) / len(passed.served.response_s)
        axes.plot(np.sort(passed.served.response_s), 100 * share, color=BLUE, label="live")
        axes.plot(
            np.sort(passed.replayed_s), 100 * share, color=ORANGE, linestyle="--", label="replay"
        )
        axes.set(title=policy, xlabel="response time, s", xscale="log")
    panels[0].set(ylabel="% of requests answered")
    panels[0].legend(loc="upper left")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{NAME}.png", format="png")
