"""The matplotlib style that all plots share; each adds its own settings."""

from typing import Any, Final

from matplotlib.typing import RcKeyType

LINE_COLOR: Final = "#5f6570"
PLOT_STYLE: Final[dict[RcKeyType, Any]] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LINE_COLOR,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e6e8eb",
    "legend.frameon": False,
}
