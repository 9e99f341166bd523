"""The targets of S2, for each source of requests: its worst value counts."""

from collections.abc import Iterable, Iterator
from typing import Final

from benchmarks.harness.contenders import OUR_ORACLE, OURS
from benchmarks.harness.report import Target, target
from benchmarks.s2.cells import BOUNDED, MEAN_FIRST, ORACLE_MEAN_FIRST, OVERLOAD, SHUFFLED
from benchmarks.s2.rows import Point

MIN_GAIN_SHARE: Final = 0.6
MAX_MEAN_ELSEWHERE: Final = 1.01
MODERATE_LOAD: Final = 0.9
MAX_P99: Final = 1.05  # over FCFS's, or the oracle's own ratio where that is more
MIN_MEAN_FIRST_SPEED_UP: Final = 3.0
MAX_SHUFFLED_MEAN: Final = 1.03
MAX_SHUFFLED_P99: Final = 1.05


def targets(found: list[Point]) -> Iterator[Target]:
    """The targets of each source."""
    for source in dict.fromkeys(point.regime.source for point in found):
        points = [point for point in found if point.regime.source == source]
        for each in _targets(points):
            yield Target(f"{source}: {each.name}", each.value, each.target, each.met)


def _targets(found: list[Point]) -> Iterator[Target]:
    shares = [point.share for point in found if point.share is not None]
    yield target(
        "least part of oracle-lmaas' gain where that is ≥ 10 %", _smallest(shares), MIN_GAIN_SHARE
    )
    idle = [point.relative(OURS, "mean_s").mean for point in found if point.share is None]
    if idle:
        yield target("mean over FCFS's elsewhere", max(idle), MAX_MEAN_ELSEWHERE, "at most")
    moderate = [point for point in found if point.load <= MODERATE_LOAD]
    yield target(
        f"p99 over {MAX_P99} times FCFS's, or over the oracle's if more, load ≤ {MODERATE_LOAD}",
        _largest(_p99(point, OURS) / max(MAX_P99, _p99(point, OUR_ORACLE)) for point in moderate),
        1,
        "at most",
    )
    overload = [point for point in found if point.load == OVERLOAD]
    yield target(
        f"p99 over FCFS's at {OVERLOAD}, bounded", _largest_p99(overload, BOUNDED), 1, "at most"
    )
    reachable = [
        point.speed_up(MEAN_FIRST).mean
        for point in overload
        if point.speed_up(ORACLE_MEAN_FIRST).mean >= MIN_MEAN_FIRST_SPEED_UP
    ]
    if reachable:
        yield target(
            f"FCFS's mean over ours at {OVERLOAD}, mean first, where the oracle's is ≥ 3",
            min(reachable),
            MIN_MEAN_FIRST_SPEED_UP,
        )
    shuffled = [point for point in found if SHUFFLED in point.contender_names]
    if shuffled:
        mean = _largest(point.relative(SHUFFLED, "mean_s").mean for point in shuffled)
        yield target("mean over FCFS's, labels shuffled", mean, MAX_SHUFFLED_MEAN, "at most")
        tail = _largest_p99(shuffled, SHUFFLED)
        yield target("p99 over FCFS's, labels shuffled", tail, MAX_SHUFFLED_P99, "at most")


def _largest_p99(found: Iterable[Point], contender: str) -> float | None:
    return _largest(_p99(point, contender) for point in found)


def _p99(point: Point, contender: str) -> float:
    return point.relative(contender, "p99_s").mean


def _smallest(values: Iterable[float]) -> float | None:
    return min(values, default=None)


def _largest(values: Iterable[float]) -> float | None:
    return max(values, default=None)
