"""What the outcomes add up to."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Self

from msgspec import Struct

from gateway.demo.sending import Outcome


class Passes(Struct, frozen=True):
    """The same arrivals three times.

    `before` and `after` the training ran under `lmaas`, with other questions; those of `fixed` are
    those of `after`, under fixed batches.
    """

    before: list[Outcome]
    after: list[Outcome]
    fixed: list[Outcome]

    def apps(self) -> list[str]:
        """The apps' names in order."""
        return sorted({outcome.app for outcome in self.after})

    def of(self, app: str) -> Self:
        """The part of one app."""
        return type(self)(
            *(
                [outcome for outcome in outcomes if outcome.app == app]
                for outcomes in (self.before, self.after, self.fixed)
            )
        )


def mean_actual(outcomes: Sequence[Outcome]) -> float:
    """Mean length in tokens."""
    return fmean(outcome.actual for outcome in outcomes)


def mean_predicted(outcomes: Sequence[Outcome]) -> float:
    """Mean predicted length in tokens."""
    return fmean(outcome.predicted for outcome in outcomes)


def mean_error(outcomes: Sequence[Outcome]) -> float:
    """Mean absolute error of the prediction in tokens."""
    return fmean(abs(outcome.predicted - outcome.actual) for outcome in outcomes)


def mean_response(outcomes: Sequence[Outcome]) -> float:
    """Mean response time in seconds."""
    return fmean(outcome.response_s for outcome in outcomes)


def response_quantile(outcomes: Sequence[Outcome], level: float) -> float:
    """The least response time in seconds that at least `level` of the requests keep to."""
    ordered = sorted(outcome.response_s for outcome in outcomes)
    return ordered[max(-int(-level * len(ordered) // 1) - 1, 0)]


class BatchFigures(Struct, frozen=True):
    """Batches of a pass. `spread`: longest less shortest answer in tokens, mean over those of
    two requests or more; None where there is none.
    """

    count: int
    mean_size: float
    spread: float | None

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Self:
        """The figures of the batches that these outcomes ran in."""
        lengths: dict[str, list[int]] = defaultdict(list)
        for outcome in outcomes:
            lengths[outcome.batch].append(outcome.actual)
        spreads = [max(batch) - min(batch) for batch in lengths.values() if len(batch) > 1]
        return cls(len(lengths), len(outcomes) / len(lengths), fmean(spreads) if spreads else None)
