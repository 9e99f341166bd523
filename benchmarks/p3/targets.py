"""What P3 is held to."""

from collections.abc import Iterator
from typing import Final

from benchmarks.harness.report import Row, Target, target
from benchmarks.p3.doubling import Doubling
from benchmarks.p3.new_app import POOLED, TAUGHT
from benchmarks.p3.shuffled import Shuffled
from benchmarks.p3.switch import Switch
from gateway.prediction.lifecycle.schedule import Schedule

OVER_FULL: Final = 1.15
OUTCOMES: Final = 500
LEVEL: Final = 0.95


def new_app_targets(rows: list[Row]) -> Iterator[Target]:
    """(a), from its rows."""
    apps = {row["new app"]: row for row in rows}
    pooled = apps.pop(POOLED)
    for name, key, bound in (
        ("first request over input length", "first/input length", 1.0),
        (f"after {TAUGHT} outcomes over full training", f"after {TAUGHT}/full", OVER_FULL),
        (f"retrained with {TAUGHT} rows over full training", "retrained/full", OVER_FULL),
    ):
        beyond = sum(row[key] > bound for row in apps.values())
        yield target(f"(a) {name}, pooled", pooled[key], bound, "at most")
        yield target(f"(a) {name}, apps above {bound:g}", beyond, 0, "at most")


def switch_targets(found: list[Switch]) -> Iterator[Target]:
    """(b)."""
    for each in found:
        yield target(f"(b) {each.name}: outcomes to coverage", each.back, OUTCOMES, "at most")
        kept = each.retrained / each.level
        yield target(f"(b) {each.name}: τ retrained over full training", kept, LEVEL)


def doubling_targets(found: list[Doubling]) -> Iterator[Target]:
    """(c)."""
    late = [each.back is None or each.back > OUTCOMES for each in found]
    known = [each.followed for each in found if each.followed is not None]
    slowest = max(known) if len(known) == len(found) else None
    kept = min(each.tau_after / each.tau_level for each in found)
    yield target("(c) apps without coverage after 500 outcomes", sum(late), 0, "at most")
    yield target("(c) outcomes to the median, slowest app", slowest, OUTCOMES, "at most")
    yield target("(c) τ served over the version's, least app", kept, LEVEL)


def shuffled_targets(found: Shuffled) -> Iterator[Target]:
    """(d)."""
    known = [count for count in found.noticed if count is not None]
    most = max(known) if len(known) == len(found.noticed) else None
    yield target("(d) outcomes to untrustworthy", most, Schedule().window, "at most")
    yield target("(d) false alarms", found.alarms, 0, "at most")
