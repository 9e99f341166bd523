"""The rows and targets of S5."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from benchmarks.harness.contenders import FCFS, OURS, group_by_key, mean_ratio
from benchmarks.harness.report import Row, Target, target
from benchmarks.s5.cells import CONTENDERS, LOAD, REQUESTS, SJF, Cell
from gateway.replay.measure.confidence import ConfidenceInterval, confidence_interval

MIN_GOODPUT_RATIO: Final = 1.5
HIDDEN: Final = "its deadline hidden"
KEPT: Final = "but never refused"
MAX_WRONG_SHARE: Final = {HIDDEN: 0.02, KEPT: 0.03}
Z_95: Final = 1.96  # standard normal quantile of a 95 % interval


def rows_of(cells: Iterable[Cell]) -> Iterator[Row]:
    """Rows for each source, pool and contender; then for each source, pool and readmission."""
    groups = group_by_key(cells)
    for (source, pool), group in groups.items():
        for name in CONTENDERS:
            over = relative(group, name, FCFS)
            yield {
                "source": source,
                "pool": pool,
                "policy": name,
                "requests/s": _of(group, lambda each: each.rate_s).mean,
                "in time/s": in_time_s(group, name).mean,
                "/fcfs": over.mean,
                "low": over.low,
                "high": over.high,
                "in time": _measure(group, name, "in_time"),
                "refused": _measure(group, name, "gave_up"),
                "mean s": _measure(group, name, "mean_s"),
                "p99 s": _measure(group, name, "p99_s"),
                "KV use": _measure(group, name, "kv_use"),
                "preempted": _measure(group, name, "preempted"),
            }
    for (source, pool), group in groups.items():
        judged = sum(each.measured[OURS].judged for each in group)
        for readmission, wrong in wrong_refusals(group).items():
            low, high = wilson_interval(wrong, judged)
            yield {
                "source": source,
                "pool": pool,
                "refused": sum(each.measured[OURS].refused for each in group),
                "let in": readmission,
                "judged": judged,
                "met their deadline": wrong,
                "wrong": wrong / judged if judged else None,
                "low": low,
                "high": high,
                "unloaded s": _of(group, lambda each: each.measured[OURS].unloaded_s).mean,
            }


def wrong_refusals(group: Sequence[Cell]) -> dict[str, int]:
    """Refused requests that met their deadline once admitted, by kind of readmission."""
    return {
        HIDDEN: sum(each.measured[OURS].wrong for each in group),
        KEPT: sum(each.measured[OURS].wrong_in_order for each in group),
    }


def targets(cells: Iterable[Cell]) -> Iterator[Target]:
    """The targets of each source and pool."""
    for (source, pool), group in group_by_key(cells).items():
        judged = sum(each.measured[OURS].judged for each in group)
        where = f"{source}, {pool}"
        yield target(
            f"{where}: in time over FCFS's at {LOAD}",
            relative(group, OURS, FCFS).mean,
            MIN_GOODPUT_RATIO,
        )
        yield target(f"{where}: in time over SJF's at {LOAD}", relative(group, OURS, SJF).mean, 1)
        for readmission, wrong in wrong_refusals(group).items():
            share = wrong / judged if judged else None
            yield target(
                f"{where}: wrongly refused, let in {readmission}",
                share,
                MAX_WRONG_SHARE[readmission],
                "at most",
            )


def in_time_s(group: Iterable[Cell], name: str) -> ConfidenceInterval:
    """Answers in time for each second of arrivals."""
    return _of(group, lambda each: each.measured[name].goodput_s)


def share_in_time(group: Iterable[Cell], name: str) -> ConfidenceInterval:
    """The fraction of requests answered in time."""
    return _of(group, lambda each: each.measured[name].goodput_s / each.rate_s)


def relative(group: Iterable[Cell], name: str, other: str) -> ConfidenceInterval:
    """Answers in time relative to another policy, for each seed; none counts as one."""
    return mean_ratio([_at_least_one(each, name) / _at_least_one(each, other) for each in group])


def wilson_interval(hits: int, tries: int) -> tuple[float | None, float | None]:
    """The 95 % interval of a proportion (Wilson 1927); None without tries."""
    if not tries:
        return None, None
    share, square = hits / tries, Z_95**2
    middle = (share + square / (2 * tries)) / (1 + square / tries)
    half = Z_95 * (share * (1 - share) / tries + square / (4 * tries**2)) ** 0.5
    half /= 1 + square / tries
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _at_least_one(cell: Cell, name: str) -> float:
    return max(cell.measured[name].goodput_s, cell.rate_s / REQUESTS)


def _measure(group: Iterable[Cell], contender: str, name: str) -> float:
    return _of(group, lambda each: float(getattr(each.measured[contender].measures, name))).mean


def _of(group: Iterable[Cell], value: Callable[[Cell], float]) -> ConfidenceInterval:
    return confidence_interval([value(each) for each in group])
