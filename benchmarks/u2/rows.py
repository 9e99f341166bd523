"""The rows and targets of U2."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from benchmarks.harness.contenders import OUR_ORACLE, OURS, group_by_key, mean_ratio
from benchmarks.harness.report import Row, Target, target
from benchmarks.u2.cells import ENGINES, POLICIES, TEXTS, TRACE, Cell, Fleet, others
from gateway.replay.measure.confidence import ConfidenceInterval
from gateway.replay.measure.metrics import Measures

MAX_RATIO: Final = 0.9
MAX_DECISION_US: Final = 200.0
STATISTICS: Final = ("mean", "p99")


def rows_of(cells: Iterable[Cell]) -> Iterator[Row]:
    """A row for each fleet and contender: its times, and ours over them, over the seeds."""
    for fleet, seeds in group_by_key(cells).items():
        for name in seeds[0].measured:
            own = name in {OURS, OUR_ORACLE}
            mean, p99 = (over(seeds, name, statistic) for statistic in STATISTICS)
            yield {
                "source": fleet.source,
                "engines": fleet.engines,
                "speeds": speeds(fleet),
                "router": "predicted-finish" if own else name.split(", ")[0],
                "order": name if own else name.split(", ")[1],
                "seeds": len(seeds),
                "requests/s": float(np.mean([cell.rate_s for cell in seeds])),
                "mean s": _mean(seeds, name, "mean_s"),
                "p99 s": _mean(seeds, name, "p99_s"),
                "wait s": _mean(seeds, name, "wait_mean_s"),
                "lmaas/mean": mean.mean,
                "mean low": mean.low,
                "mean high": mean.high,
                "lmaas/p99": p99.mean,
                "p99 low": p99.low,
                "p99 high": p99.high,
                "preempted": _mean(seeds, name, "preempted"),
                "µs a decision": _mean(seeds, name, "decision_us"),
            }


def targets(cells: Iterable[Cell]) -> Iterator[Target]:
    """Ours over the best other router, the worst number of engines; and the cost of a decision."""
    found = group_by_key(cells)
    for source in (TRACE, TEXTS):
        for slow in (False, True):
            group = [
                seeds for key, seeds in found.items() if (key.source, key.slow) == (source, slow)
            ]
            for order in POLICIES:
                for statistic in STATISTICS:
                    ratios = [over_best(seeds, order, statistic).mean for seeds in group]
                    kind = "one slow engine" if slow else "equal engines"
                    name = f"{source}, {kind}: {statistic} over the best router's with {order}"
                    yield target(name, max(ratios, default=None), MAX_RATIO, "at most")
    costs = [
        _mean(seeds, OURS, "decision_us")
        for fleet, seeds in found.items()
        if fleet.engines == max(ENGINES)
    ]
    name = f"µs a decision with {max(ENGINES)} engines"
    yield target(name, max(costs, default=None), MAX_DECISION_US, "at most")


def over(seeds: Sequence[Cell], contender: str, statistic: str) -> ConfidenceInterval:
    """Our statistic over a contender's, of each seed's requests; `seeds` are cells of one fleet."""
    of = _STATISTIC[statistic]
    return mean_ratio([of(cell.measured[OURS]) / of(cell.measured[contender]) for cell in seeds])


def over_best(seeds: Sequence[Cell], order: str, statistic: str) -> ConfidenceInterval:
    """The same over the router that is best on these seeds, with this order in the engines."""
    found = [over(seeds, f"{router}, {order}", statistic) for router in others(seeds[0].key.source)]
    return max(found, key=lambda interval: interval.mean)


def speeds(fleet: Fleet) -> str:
    """The speeds of a fleet, in words."""
    return "one of half speed" if fleet.slow else "equal"


def _mean(seeds: Sequence[Cell], contender: str, measure: str) -> float:
    return float(np.mean([getattr(cell.measured[contender], measure) for cell in seeds]))


_STATISTIC: Final[dict[str, Callable[[Measures], float]]] = {
    "mean": lambda measures: measures.mean_s,
    "p99": lambda measures: measures.p99_s,
}
