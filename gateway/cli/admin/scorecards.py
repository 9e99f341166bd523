"""The scorecards of a version as rows of a table."""

from collections.abc import Mapping
from typing import Any, Final

from gateway.cli.admin.output import Columns

# Of the held-out rows, by key of a version's metrics.
PREDICTIONS: Final = {
    "new": "this version",
    "active": "the active version before",
    "line": "a line per app",
    "served": "what was served then",
}
SCORECARD_COLUMNS: Columns = {
    "predictions": "predictions",
    "rows": "rows",
    "pinball": "pinball",
    "tau": "tau",
    "coverage": "coverage",
    "error in tokens": "mae",
}


def scorecards(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each scorecard that the metrics of a version have."""
    return [
        {"predictions": name, **metrics[key]}
        for key, name in PREDICTIONS.items()
        if isinstance(metrics.get(key), dict)
    ]
