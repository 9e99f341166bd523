"""Plot of S0: the distribution of response times, live and replayed."""

from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from benchmarks.live.passes import PolicyRun
from gateway.evaluation.plots import BLUE, DOTS_PER_INCH, ORANGE
from gateway.pictures import PLOT_STYLE

NAME: Final = "S0-live-replay"


@mpl.rc_context(PLOT_STYLE)
def draw(policy_runs: dict[str, PolicyRun], folder: Path) -> None:
    """A panel for each policy: the fraction of requests answered within a time."""
    figure = Figure((5.0 * len(policy_runs), 3.6), DOTS_PER_INCH, layout="constrained")
    panels = figure.subplots(1, len(policy_runs), squeeze=False, sharey=True)[0]
    for axes, (policy, policy_run) in zip(panels, policy_runs.items(), strict=True):
        share = np.arange(1, len(policy_run.served.response_s) + 1) / len(
            policy_run.served.response_s
        )
        axes.plot(np.sort(policy_run.served.response_s), 100 * share, color=BLUE, label="live")
        axes.plot(
            np.sort(policy_run.replayed_s),
            100 * share,
            color=ORANGE,
            linestyle="--",
            label="replay",
        )
        axes.set(title=policy, xlabel="response time, s", xscale="log")
    panels[0].set(ylabel="% of requests answered")
    panels[0].legend(loc="upper left")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{NAME}.png", format="png")
