"""The rows of S1 in replay: throughput with a backlog, responses by load, the sweep of Φ."""

from collections.abc import Iterable, Iterator
from typing import Final

from msgspec import Struct

from benchmarks.harness.contenders import group_by_key, mean_ratio
from benchmarks.harness.report import Row
from benchmarks.s1.ladder import FIXED, NO_PREDICTOR, REPLAY, RUNGS
from benchmarks.s1.replay_cells import SATURATED, Cell, LadderMeasures, Place
from gateway.replay.measure.confidence import ConfidenceInterval, confidence_interval

SATURATED_FIELDS: Final = {
    "requests/s": "requests_s",
    "tokens/s": "tokens_s",
    "valid tokens/s": "valid_tokens_s",
    "valid share": "valid_share",
    "batch": "batch_size",
    "out of memory": "preempted",
}
LOAD_FIELDS: Final = {
    "requests/s": "requests_s",
    "valid tokens/s": "valid_tokens_s",
    "batch": "batch_size",
    "p95 s": "p95_s",
    "mean s": "mean_s",
}


class Point(Struct, frozen=True):
    """A rung in a setting at a load, with a predictor: a measurement for each seed.

    `fixed` has those of `fixed` with the same requests.
    """

    place: Place
    rung: str
    runs: tuple[LadderMeasures, ...]
    fixed: tuple[LadderMeasures, ...]

    def of(self, measure: str) -> ConfidenceInterval:
        """A measure over the seeds."""
        return confidence_interval([float(getattr(run, measure)) for run in self.runs])

    def relative(self, measure: str) -> ConfidenceInterval:
        """A measure relative to `fixed`, as a ratio for each seed."""
        return mean_ratio(
            [
                float(getattr(run, measure)) / float(getattr(fixed, measure))
                for run, fixed in zip(self.runs, self.fixed, strict=True)
            ]
        )


def points(cells: Iterable[Cell]) -> list[Point]:
    """The points of the cells whose requests `fixed` has run too, rung by rung."""
    groups = group_by_key(cells)
    found: list[Point] = []
    for place, group in groups.items():
        baseline = groups.get(Place(place.setting, place.load, NO_PREDICTOR), [])
        fixed = {cell.seed: cell.measured[FIXED] for cell in baseline}
        for rung in dict.fromkeys(name for cell in group for name in cell.measured):
            paired = [each for each in group if each.seed in fixed and rung in each.measured]
            runs = [(cell.measured[rung], fixed[cell.seed]) for cell in paired]
            if runs:
                found.append(Point(place, rung, *zip(*runs, strict=True)))
    return found


def ladder_rows(found: list[Point]) -> Iterator[Row]:
    """The rows of the ladder: settings one after the other, in each the backlog first."""
    ladder = [point for point in found if point.rung in RUNGS]
    ladder.sort(key=lambda point: RUNGS.index(point.rung))
    for point in ladder:
        if point.place.load is SATURATED:
            yield _row(point, {}, SATURATED_FIELDS, "requests_s")
    for point in sorted(ladder, key=lambda point: point.place.load or 0.0):
        if point.place.load is not SATURATED:
            yield _row(point, {"load": point.place.load}, LOAD_FIELDS, "mean_s")


def sweep_rows(found: list[Point]) -> Iterator[Row]:
    """Magnus with other limits Φ: throughput with a backlog, mean response at a load."""
    for point in found:
        if point.rung in RUNGS:
            continue
        saturated = point.place.load is SATURATED
        measure = "requests_s" if saturated else "mean_s"
        relative = point.relative(measure)
        yield {
            "part": REPLAY,
            "setting": point.place.setting,
            "Φ": point.rung,
            "load": "saturated" if saturated else point.place.load,
            "measure": "requests/s" if saturated else "mean s",
            "value": point.of(measure).mean,
            "/fixed": relative.mean,
            "low": relative.low,
            "high": relative.high,
            "batch": point.of("batch_size").mean,
            "valid share": point.of("valid_share").mean,
        }


def _row(point: Point, load: Row, fields: dict[str, str], compared: str) -> Row:
    relative = point.relative(compared)
    return {
        "part": REPLAY,
        "setting": point.place.setting,
        **load,
        "rung": point.rung,
        "predictor": point.place.predictor,
        **{name: point.of(measure).mean for name, measure in fields.items()},
        "/fixed": relative.mean,
        "low": relative.low,
        "high": relative.high,
    }
