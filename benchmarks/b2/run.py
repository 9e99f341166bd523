"""B2: the makespan of mixed jobs, ours against arrival order with LRU caching and vLLM."""

from collections.abc import Iterable
from statistics import median
from typing import Final

from benchmarks.b2.contestants import STEP_TOKENS, JobContestant, JobRun, starters
from benchmarks.b2.job import INSTRUCTIONS, KINDS, JobKind, mixed_job
from benchmarks.engine.served_model import served_folder
from benchmarks.engine.workload import Request
from benchmarks.harness.ratios import paired
from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.harness.retry import Measured, quietest

SIZE: Final = "m100"
ROUNDS: Final = 2
WARM_UP_LINES: Final = 2  # of each degree
WARM_UP_SEED: Final = 1_000
BOUNDS: Final = {"arrival order": 1.3, "vllm": 1.1}

Runs = dict[str, list[Measured[JobRun]]]
Jobs = dict[str, Runs]
"""The runs of each kind of job."""


def run(rounds: int, size: str, threads: int, lines_of_degree: int | None) -> None:
    """Run the jobs of each round in turns; writes the result after each round."""
    report = Report("B2", look=size != SIZE or lines_of_degree is not None)
    jobs: Jobs = {kind.name: {} for kind in KINDS}
    present: dict[str, JobContestant] = {}
    try:
        for name, start in starters(size, threads, served_folder(size)).items():
            report.say(f"{name}: starting")
            present[name] = start()
            present[name].run(mixed_job(INSTRUCTIONS, WARM_UP_SEED, WARM_UP_LINES))
            present[name].pause()
        for number in range(rounds):
            for kind in KINDS:
                _round(
                    report, kind, mixed_job(kind, number, lines_of_degree), present, jobs, number
                )
            report.write(rows_of(jobs, size), targets(jobs))
    finally:
        for contestant in present.values():
            contestant.close()
    report.conclude(rows_of(jobs, size), targets(jobs))


def rotated(names: list[str], number: int) -> list[str]:
    """The names, from another one on in each round."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


def targets(jobs: Jobs) -> list[Target]:
    """How many times faster than each of the others, in each kind of job."""
    return [
        target(f"{kind}: {other} / ours: makespan", _ratio(runs, other), bound)
        for kind, runs in jobs.items()
        for other, bound in BOUNDS.items()
    ]


def rows_of(jobs: Jobs, size: str) -> list[Row]:
    """A row for each kind of job and contestant, and for each ratio."""
    return [
        {"job": kind} | row
        for kind, runs in jobs.items()
        for row in (
            *(_row(name, [one.outcome for one in found], size) for name, found in runs.items()),
            *_ratio_rows(runs),
        )
    ]


def _round(
    report: Report,
    kind: JobKind,
    lines: list[Request],
    present: dict[str, JobContestant],
    jobs: Jobs,
    number: int,
) -> None:
    """Run a job with each contestant in turn."""
    for name in rotated(list(present), number):
        found = _turn(report, f"{kind.name}, {name}", present[name], lines)
        jobs[kind.name].setdefault(name, []).append(found)


def _turn(
    report: Report, name: str, contestant: JobContestant, job: list[Request]
) -> Measured[JobRun]:
    contestant.resume()
    try:
        return quietest(
            lambda: contestant.run(job),
            lambda found: report.say(f"{name}: {found.outcome.wall_s:.1f} s; {found}"),
            repeats=0,  # a repetition would find the prefixes in the cache
        )
    finally:
        contestant.pause()


def _row(name: str, runs: list[JobRun], size: str) -> Row:
    works = [run.work for run in runs if run.work]
    return {
        "size": size,
        "contestant": name,
        "makespan_s": median(run.wall_s for run in runs),
        "tokens_s": median(run.generated / run.wall_s for run in runs),
        "prefilled": _median(work.prefilled for work in works),
        "tokens_a_step": _median(work.computed / work.steps for work in works),
        "under_a_quarter": _median(work.small_steps / work.steps for work in works),
        "step_tokens": STEP_TOKENS,
        "rounds": len(runs),
    }


def _ratio_rows(runs: Runs) -> list[Row]:
    found = {other: paired(_walls(runs, other), _walls(runs, "ours")) for other in BOUNDS}
    return [
        {"ratio": f"{other} / ours", "median": each.median, "low": each.low, "high": each.high}
        for other, each in found.items()
        if each
    ]


def _ratio(runs: Runs, other: str) -> float | None:
    found = paired(_walls(runs, other), _walls(runs, "ours"))
    return None if found is None else found.median


def _walls(runs: Runs, name: str) -> list[float]:
    return [one.outcome.wall_s for one in runs.get(name, [])]


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return median(known) if known else None
