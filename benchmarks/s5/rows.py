"""The rows of S5, and what it is held to."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from benchmarks.harness.contenders import FCFS, OURS, grouped, ratio
from benchmarks.harness.report import Row, Target, target
from benchmarks.s5.cells import LOAD, REQUESTS, SIDES, Cell
from gateway.replay.measure.confidence import ConfidenceInterval, confidence_interval

GOODPUT: Final = 1.5
WRONG: Final = 0.02
NORMAL: Final = 1.96  # of a 95 % interval


def rows_of(cells: Iterable[Cell]) -> Iterator[Row]:
    """A row for each source, pool and side, and one for each about refusals."""
    groups = grouped(cells)
    for (source, pool), group in groups.items():
        for name in SIDES:
            over = over_first_come(group, name)
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
        for let_in, wrong in wrongs(group).items():
            low, high = wilson(wrong, judged)
            yield {
                "source": source,
                "pool": pool,
                "refused": sum(each.measured[OURS].refused for each in group),
                "let in": let_in,
                "judged": judged,
                "met their deadline": wrong,
                "wrong": wrong / judged if judged else None,
                "low": low,
                "high": high,
                "unloaded s": _of(group, lambda each: each.measured[OURS].unloaded_s).mean,
            }


def wrongs(group: Sequence[Cell]) -> dict[str, int]:
    """Refused requests that met their deadline, by how they were let in."""
    return {
        "its deadline hidden": sum(each.measured[OURS].wrong for each in group),
        "but never refused": sum(each.measured[OURS].wrong_in_order for each in group),
    }


def targets(cells: Iterable[Cell]) -> Iterator[Target]:
    """The verdicts, for each source and pool."""
    for (source, pool), group in grouped(cells).items():
        judged = sum(each.measured[OURS].judged for each in group)
        where = f"{source}, {pool}"
        yield target(
            f"{where}: in time over FCFS's at {LOAD}", over_first_come(group, OURS).mean, GOODPUT
        )
        for let_in, wrong in wrongs(group).items():
            share = wrong / judged if judged else None
            yield target(f"{where}: wrongly refused, let in {let_in}", share, WRONG, "at most")


def in_time_s(group: Iterable[Cell], name: str) -> ConfidenceInterval:
    """Answers in time for each second of arrivals."""
    return _of(group, lambda each: each.measured[name].goodput_s)


def share_in_time(group: Iterable[Cell], name: str) -> ConfidenceInterval:
    """Answers in time as a share of what arrived."""
    return _of(group, lambda each: each.measured[name].goodput_s / each.rate_s)


def over_first_come(group: Iterable[Cell], name: str) -> ConfidenceInterval:
    """Answers in time over FCFS's, seed by seed; none counts as one, for a ratio's sake."""
    return ratio([_at_least_one(each, name) / _at_least_one(each, FCFS) for each in group])


def wilson(hits: int, tries: int) -> tuple[float | None, float | None]:
    """The 95 % interval of a share (Wilson 1927); None without tries."""
    if not tries:
        return None, None
    share, square = hits / tries, NORMAL**2
    middle = (share + square / (2 * tries)) / (1 + square / tries)
    half = NORMAL * (share * (1 - share) / tries + square / (4 * tries**2)) ** 0.5
    half /= 1 + square / tries
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _at_least_one(cell: Cell, name: str) -> float:
    return max(cell.measured[name].goodput_s, cell.rate_s / REQUESTS)


def _measure(group: Iterable[Cell], side: str, name: str) -> float:
    return _of(group, lambda each: float(getattr(each.measured[side].measures, name))).mean


def _of(group: Iterable[Cell], value: Callable[[Cell], float]) -> ConfidenceInterval:
    return confidence_interval([value(each) for each in group])
