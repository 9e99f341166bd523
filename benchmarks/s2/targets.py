"""What S2 is held to, for each source of requests, wherever it does worst."""

from collections.abc import Iterable, Iterator
from typing import Final

from benchmarks.harness.contenders import OURS
from benchmarks.harness.report import Target, target
from benchmarks.s2.cells import BOUNDED, MEAN_FIRST, OVERLOAD, SHUFFLED
from benchmarks.s2.rows import Point

SHARE: Final = 0.6
NO_GAIN: Final = 1.01
MODERATE: Final = 0.9
MEAN_FIRST_SPEED_UP: Final = 3.0
SHUFFLED_MEAN: Final = 1.03
SHUFFLED_TAIL: Final = 1.05


def targets(found: list[Point]) -> Iterator[Target]:
    """The verdicts, source by source."""
    for source in dict.fromkeys(point.regime.source for point in found):
        mine = [point for point in found if point.regime.source == source]
        for each in _targets(mine):
            yield Target(f"{source}: {each.name}", each.value, each.target, each.met)


def _targets(found: list[Point]) -> Iterator[Target]:
    shares = [point.share for point in found if point.share is not None]
    yield target("least part of oracle-lmaas' gain where that is ≥ 10 %", _least(shares), SHARE)
    idle = [point.over(OURS, "mean_s").mean for point in found if point.share is None]
    if idle:
        yield target("mean over FCFS's elsewhere", max(idle), NO_GAIN, "at most")
    moderate = [point for point in found if point.load <= MODERATE]
    yield target(f"p99 over FCFS's, load ≤ {MODERATE}", _tail(moderate, OURS), 1, "at most")
    over = [point for point in found if point.load == OVERLOAD]
    yield target(f"p99 over FCFS's at {OVERLOAD}, bounded", _tail(over, BOUNDED), 1, "at most")
    first = [point.speed_up(MEAN_FIRST).mean for point in over]
    yield target(
        f"FCFS's mean over ours at {OVERLOAD}, mean first", _least(first), MEAN_FIRST_SPEED_UP
    )
    shuffled = [point for point in found if SHUFFLED in point.sides]
    if shuffled:
        mean = _most(point.over(SHUFFLED, "mean_s").mean for point in shuffled)
        yield target("mean over FCFS's, labels shuffled", mean, SHUFFLED_MEAN, "at most")
        tail = _tail(shuffled, SHUFFLED)
        yield target("p99 over FCFS's, labels shuffled", tail, SHUFFLED_TAIL, "at most")


def _tail(found: Iterable[Point], side: str) -> float | None:
    return _most(point.over(side, "p99_s").mean for point in found)


def _least(values: Iterable[float]) -> float | None:
    return min(values, default=None)


def _most(values: Iterable[float]) -> float | None:
    return max(values, default=None)
