"""Statistics of the demo's results."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Self

from msgspec import Struct

from gateway.demo.sending import DemoResult


class DemoPasses(Struct, frozen=True):
    """The results of three passes with the same apps and arrival times.

    `before` and `after` the training ran under the policy `lmaas` with different questions;
    `fixed` repeats the questions of `after` under the policy `fixed`.
    """

    before: list[DemoResult]
    after: list[DemoResult]
    fixed: list[DemoResult]

    def apps(self) -> list[str]:
        """The apps' names, sorted."""
        return sorted({result.app for result in self.after})

    def of(self, app: str) -> Self:
        """The results of one app."""
        return type(self)(
            *(
                [result for result in results if result.app == app]
                for results in (self.before, self.after, self.fixed)
            )
        )


def mean_actual(results: Sequence[DemoResult]) -> float:
    """Mean length in tokens."""
    return fmean(result.actual for result in results)


def mean_predicted(results: Sequence[DemoResult]) -> float:
    """Mean predicted length in tokens."""
    return fmean(result.predicted for result in results)


def mean_error(results: Sequence[DemoResult]) -> float:
    """Mean absolute error of the prediction in tokens."""
    return fmean(abs(result.predicted - result.actual) for result in results)


def mean_response(results: Sequence[DemoResult]) -> float:
    """Mean response time in seconds."""
    return fmean(result.response_s for result in results)


def response_quantile(results: Sequence[DemoResult], level: float) -> float:
    """Quantile of the response time in seconds, by nearest rank; `level` is in (0, 1]."""
    ordered = sorted(result.response_s for result in results)
    return ordered[max(-int(-level * len(ordered) // 1) - 1, 0)]


class BatchStatistics(Struct, frozen=True):
    """Batches of a pass.

    `spread`: longest minus shortest answer in tokens, mean over batches of two or more requests;
    None if there is no such batch.
    """

    count: int
    mean_size: float
    spread: float | None

    @classmethod
    def of(cls, results: Sequence[DemoResult]) -> Self:
        """Statistics of the batches that these requests ran in."""
        lengths: dict[str, list[int]] = defaultdict(list)
        for result in results:
            lengths[result.batch].append(result.actual)
        spreads = [max(batch) - min(batch) for batch in lengths.values() if len(batch) > 1]
        return cls(len(lengths), len(results) / len(lengths), fmean(spreads) if spreads else None)
