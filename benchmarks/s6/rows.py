"""The rows and targets of S6."""

from collections.abc import Iterable, Iterator
from typing import Final

from benchmarks.harness.contenders import group_by_key, mean_ratio
from benchmarks.harness.report import Row, Target, target
from benchmarks.s6.cells import OURS, RULES, WORKLOADS, Cell
from gateway.replay.measure.confidence import ConfidenceInterval

OTHERS: Final = tuple(rule for rule in RULES if rule != OURS)
WITHIN: Final = 0.02  # of the best of the others


def rows_of(cells: Iterable[Cell]) -> Iterator[Row]:
    """A row for each engine, workload and predictor: ours over each other rule, over the seeds."""
    for key, group in group_by_key(cells).items():
        row: Row = {"engine": key.engine, "workload": key.workload, "lengths": key.predictor}
        for other in OTHERS:
            row[f"tokens/s over {other}"] = speed_over(group, other).mean
            row[f"p99 over {other}"] = wait_over(group, other).mean
        speed, wait = worst_speed(group), worst_wait(group)
        row |= {
            "tokens/s over the best": speed.mean,
            "tokens/s, high": speed.high,
            "p99 over the best": wait.mean,
            "p99, low": wait.low,
            "better in both": ", ".join(other for other in OTHERS if _ahead(group, other)),
        }
        for rule in RULES:
            row[f"preempted, {rule}"] = mean_of(group, rule, "preemptions")
            row[f"lost, {rule}"] = mean_of(group, rule, "lost")
        yield row


def targets(cells: Iterable[Cell]) -> Iterator[Target]:
    """No rule is better in both; and ours is near the best in each, by the better interval end."""
    groups = group_by_key(cells)
    for workload in WORKLOADS:
        found = [group for key, group in groups.items() if key.workload == workload]
        beaten = sum(any(beats(group, other) for other in OTHERS) for group in found)
        yield target(
            f"{workload}: cells where one rule is better in both",
            beaten if found else None,
            0,
            "at most",
        )
        speeds = [worst_speed(group).high for group in found]
        yield target(
            f"{workload}: tokens/s over the best, worst cell", min(speeds, default=None), 1 - WITHIN
        )
        waits = [worst_wait(group).low for group in found]
        name = f"{workload}: p99 first token over the best, worst cell"
        yield target(name, max(waits, default=None), 1 + WITHIN, "at most")


def mean_of(group: Iterable[Cell], rule: str, name: str) -> float:
    """The mean of a rule's measure over the seeds."""
    values = [float(getattr(each.measured[rule], name)) for each in group]
    return sum(values) / len(values)


def speed_over(group: list[Cell], other: str) -> ConfidenceInterval:
    """Our tokens a second over another rule's, paired by seed."""
    return _over(group, other, "tokens_s")


def wait_over(group: list[Cell], other: str) -> ConfidenceInterval:
    """Our p99 time to the first token over another rule's, paired by seed."""
    return _over(group, other, "first_token_p99_s")


def worst_speed(group: list[Cell]) -> ConfidenceInterval:
    """Our tokens a second over those of the rule that has the most."""
    return min((speed_over(group, other) for other in OTHERS), key=lambda each: each.mean)


def worst_wait(group: list[Cell]) -> ConfidenceInterval:
    """Our p99 time to the first token over that of the rule that has the shortest."""
    return max((wait_over(group, other) for other in OTHERS), key=lambda each: each.mean)


def beats(group: list[Cell], other: str) -> bool:
    """Whether another rule has more tokens a second and a shorter p99, beyond the intervals."""
    return speed_over(group, other).high < 1 and wait_over(group, other).low > 1


def _ahead(group: list[Cell], other: str) -> bool:
    return speed_over(group, other).mean < 1 and wait_over(group, other).mean > 1


def _over(group: list[Cell], other: str, name: str) -> ConfidenceInterval:
    return mean_ratio(
        [getattr(e.measured[OURS], name) / getattr(e.measured[other], name) for e in group]
    )
