"""Whether a new version may serve: it is compared with others on the same held-out rows.

Its pinball loss may not be higher than that of a line per app, of what was served at the time, and
of the active version; nor may its Kendall's τ be lower by more than the standard error of the
difference. The loss has no such allowance: a version that is as good by chance alone is not needed.
"""

from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from gateway.prediction.training.scorecard import Scorecard, evaluate, tau_difference_error
from gateway.quantiles import MEDIAN, Bools, Floats

EQUAL_TOLERANCE: Final = 1e-9  # difference below which two measures are equal

Other = Literal["line", "served", "active"]


class Failure(Struct, frozen=True):
    """A comparison that a version fails: its value is beyond the other's and `allowance`."""

    against: Other
    measure: Literal["pinball", "tau"]
    new: float
    other: float
    allowance: float


class Comparison(Struct, frozen=True):
    """Scorecards of a new version and of another predictor on the same rows.

    `tau_error` is the standard error of the difference of their τ.
    """

    against: Other
    new: Scorecard
    other: Scorecard
    tau_error: float

    @classmethod
    def of(
        cls, against: Other, tokens: Floats, new: Floats, other: Floats, rows: Bools | None = None
    ) -> "Comparison":
        """Compare quantiles in tokens (n, len(LEVELS)), on all lengths (n,) or on some rows."""
        if rows is not None:
            tokens, new, other = tokens[rows], new[rows], other[rows]
        error = tau_difference_error(tokens, new[:, MEDIAN], other[:, MEDIAN])
        return cls(against, evaluate(tokens, new), evaluate(tokens, other), error)

    def failures(self) -> list[Failure]:
        """The measures by which the new version is worse; none without rows."""
        new, other = self.new, self.other
        failed = []
        if new.pinball > other.pinball + EQUAL_TOLERANCE:
            failed.append(Failure(self.against, "pinball", new.pinball, other.pinball, 0.0))
        if new.tau < other.tau - self.tau_error - EQUAL_TOLERANCE:
            failed.append(Failure(self.against, "tau", new.tau, other.tau, self.tau_error))
        return failed


class Judgement(Struct, frozen=True):
    """A new version's scorecard on all held-out rows, and its comparisons."""

    new: Scorecard
    comparisons: list[Comparison]

    @property
    def failures(self) -> list[Failure]:
        """All comparisons that it fails."""
        return [failure for each in self.comparisons for failure in each.failures()]

    @property
    def accepted(self) -> bool:
        """Whether it may serve."""
        return not self.failures

    def other(self, against: Other) -> Scorecard | None:
        """The scorecard of what it was compared with; None if there was none."""
        found = (each.other for each in self.comparisons if each.against == against)
        return next(found, None)

    def metrics(self) -> dict[str, Any]:
        """The scorecards, the verdict and its reasons as JSON."""
        cards = {name: self.other(name) for name in ("active", "line", "served")}
        found = {"new": self.new, **cards, "accepted": self.accepted, "failures": self.failures}
        return dict(msgspec.to_builtins(found))
