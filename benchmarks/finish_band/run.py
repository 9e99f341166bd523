"""finish-band: how often the band of a job's end, shown while it runs, has the end in it."""

from collections.abc import Sequence
from typing import Final

from benchmarks.finish_band.judgement import judge_live, judge_simulated, rows_of
from benchmarks.finish_band.live_jobs import live_courses
from benchmarks.finish_band.simulated_jobs import simulated_course
from benchmarks.harness.report import Report, Row, Target, target

FIGURE: Final = "finish-band"
SIMULATED: Final = 300
LIVE: Final = 40
LEAST: Final = 0.75
MOST: Final = 0.85


def run(simulated: int, live: int) -> None:
    """Judge the bands of this many jobs."""
    report = Report(FIGURE, (simulated, live) != (SIMULATED, LIVE))
    rows: list[Row] = []
    if simulated:
        report.say(f"simulating {simulated} jobs")
        courses = [simulated_course(seed) for seed in range(simulated)]
        rows += rows_of("simulated", simulated, judge_simulated(courses))
        report.write(rows, targets(rows))
    if live:
        rows += rows_of("live", live, judge_live(live_courses(live, report.say)))
    report.conclude(rows, targets(rows))


def targets(rows: Sequence[Row]) -> list[Target]:
    """Four of five ends are in their bands."""
    found: list[Target] = []
    for part in ("simulated", "live"):
        inside = next(
            (row["inside"] for row in rows if (row["part"], row["work done"]) == (part, "all")),
            None,
        )
        name = f"{part}: ends in their bands"
        found += [
            target(name, inside, LEAST),
            target(name, inside, MOST, "at most"),
        ]
    return found
