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


def verdict(version: Mapping[str, Any]) -> str:
    """Whether a training run's version was accepted; if not, which comparisons it failed."""
    metrics = version["metrics"]
    if metrics["activated"]:
        return f"accepted: version {version['id']} is active"
    kept = f"version {version['id']} is stored and inactive"
    if metrics["accepted"]:
        return f"{kept}, as --keep asks; it is no worse than what it was compared with"
    reasons = " and ".join(map(_failed_comparison, metrics["failures"]))
    return f"not accepted: {reasons}; {kept}"


def _failed_comparison(failure: Mapping[str, Any]) -> str:
    """As in `pinball loss 0.239 where a line per app has 0.218 (+0.021)`."""
    new, other, allowance = failure["new"], failure["other"], failure["allowance"]
    measure = "pinball loss" if failure["measure"] == "pinball" else failure["measure"]
    allowed = f", {allowance:.3f} of it is allowed" if allowance else ""
    against = PREDICTIONS[failure["against"]]
    return f"{measure} {new:.3f} where {against} has {other:.3f} ({new - other:+.3f}{allowed})"
