"""How all pictures look: matplotlib's settings, beside which each has its own."""

from typing import Any, Final

from matplotlib.typing import RcKeyType

LINE: Final = "#5f6570"
LOOK: Final[dict[RcKeyType, Any]] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LINE,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e6e8eb",
    "legend.frameon": False,
}
