"""The rows and targets of U2."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from benchmarks.harness.contenders import OUR_ORACLE, OURS
from benchmarks.harness.report import Row, Target, target
from benchmarks.u2.cells import ENGINES, POLICIES, TEXTS, TRACE, Cell, Fleet, others
from gateway.replay.measure.metrics import Measures

MAX_RATIO: Final = 0.9
MAX_DECISION_US: Final = 200.0
STATISTICS: Final = ("mean", "p99")


def rows_of(cells: Iterable[Cell]) -> Iterator[Row]:
    """A row for each fleet and contender: its times, and ours over them."""
    for cell in cells:
        ours = cell.measured[OURS]
        for name, found in cell.measured.items():
            own = name in {OURS, OUR_ORACLE}
            yield {
                "source": cell.key.source,
                "engines": cell.key.engines,
                "speeds": speeds(cell.key),
                "router": "predicted-finish" if own else name.split(", ")[0],
                "order": name if own else name.split(", ")[1],
                "requests/s": cell.rate_s,
                "mean s": found.mean_s,
                "p99 s": found.p99_s,
                "wait s": found.wait_mean_s,
                "lmaas/mean": ours.mean_s / found.mean_s,
                "lmaas/p99": ours.p99_s / found.p99_s,
                "preempted": found.preempted,
                "µs a decision": found.decision_us,
            }


def targets(cells: Iterable[Cell]) -> Iterator[Target]:
    """Ours over the best other router, the worst number of engines; and the cost of a decision."""
    found = list(cells)
    for source in (TRACE, TEXTS):
        for slow in (False, True):
            group = [cell for cell in found if (cell.key.source, cell.key.slow) == (source, slow)]
            for order in POLICIES:
                for statistic in STATISTICS:
                    ratios = [over_best(cell, order, statistic) for cell in group]
                    kind = "one slow engine" if slow else "equal engines"
                    name = f"{source}, {kind}: {statistic} over the best router's with {order}"
                    yield target(name, max(ratios, default=None), MAX_RATIO, "at most")
    largest = [cell for cell in found if cell.key.engines == max(ENGINES)]
    costs = [cell.measured[OURS].decision_us for cell in largest]
    name = f"µs a decision with {max(ENGINES)} engines"
    yield target(name, max(costs, default=None), MAX_DECISION_US, "at most")


def over_best(cell: Cell, order: str, statistic: str) -> float:
    """Our statistic over the least of the other routers with this order in the engines."""
    of: Callable[[Measures], float] = _STATISTIC[statistic]
    best = min(of(cell.measured[f"{router}, {order}"]) for router in others(cell.key.source))
    return of(cell.measured[OURS]) / best


def speeds(fleet: Fleet) -> str:
    """The speeds of a fleet, in words."""
    return "one of half speed" if fleet.slow else "equal"


_STATISTIC: Final[dict[str, Callable[[Measures], float]]] = {
    "mean": lambda measures: measures.mean_s,
    "p99": lambda measures: measures.p99_s,
}
