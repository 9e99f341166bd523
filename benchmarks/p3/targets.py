"""The targets of P3."""

from collections.abc import Iterator
from typing import Final

from benchmarks.harness.report import Row, Target, target
from benchmarks.p3.doubling import Doubling
from benchmarks.p3.new_app import POOLED, TAUGHT_OUTCOMES
from benchmarks.p3.shuffled import ShuffledLengths
from benchmarks.p3.switch import MixChange
from gateway.prediction.lifecycle.schedule import Schedule

MAX_OVER_FULL: Final = 1.15
MAX_OUTCOMES: Final = 500
MIN_TAU_RATIO: Final = 0.95


def new_app_targets(rows: list[Row]) -> Iterator[Target]:
    """Targets of (a), from its rows."""
    apps = {row["new app"]: row for row in rows}
    pooled = apps.pop(POOLED)
    for name, key, bound in (
        ("first request over input length", "first/input length", 1.0),
        (
            f"after {TAUGHT_OUTCOMES} outcomes over full training",
            f"after {TAUGHT_OUTCOMES}/full",
            MAX_OVER_FULL,
        ),
        (
            f"retrained with {TAUGHT_OUTCOMES} rows over full training",
            "retrained/full",
            MAX_OVER_FULL,
        ),
    ):
        beyond = sum(row[key] > bound for row in apps.values())
        yield target(f"(a) {name}, pooled", pooled[key], bound, "at most")
        yield target(f"(a) {name}, apps above {bound:g}", beyond, 0, "at most")


def switch_targets(found: list[MixChange]) -> Iterator[Target]:
    """Targets of (b)."""
    for each in found:
        yield target(
            f"(b) {each.name}: outcomes to coverage", each.recovery, MAX_OUTCOMES, "at most"
        )
        kept = each.retrained / each.level
        yield target(f"(b) {each.name}: τ retrained over full training", kept, MIN_TAU_RATIO)


def doubling_targets(found: list[Doubling]) -> Iterator[Target]:
    """Targets of (c)."""
    late = [each.recovery is None or each.recovery > MAX_OUTCOMES for each in found]
    known = [each.followed for each in found if each.followed is not None]
    slowest = max(known) if len(known) == len(found) else None
    kept = min(each.tau_after / each.tau_level for each in found)
    yield target("(c) apps without coverage after 500 outcomes", sum(late), 0, "at most")
    yield target("(c) outcomes to the median, slowest app", slowest, MAX_OUTCOMES, "at most")
    yield target("(c) τ served over the version's, least app", kept, MIN_TAU_RATIO)


def shuffled_targets(found: ShuffledLengths) -> Iterator[Target]:
    """Targets of (d)."""
    known = [count for count in found.noticed if count is not None]
    most = max(known) if len(known) == len(found.noticed) else None
    yield target("(d) outcomes to untrustworthy", most, Schedule().window, "at most")
    yield target("(d) false alarms", found.alarms, 0, "at most")
