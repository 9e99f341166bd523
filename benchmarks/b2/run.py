"""B2: the makespan of a mixed job, ours against arrival order with LRU caching and vLLM."""

from collections.abc import Iterable
from statistics import median
from typing import Final

from benchmarks.b2.contestants import STEP_TOKENS, JobContestant, JobRun, starters
from benchmarks.b2.job import LINES_OF_DEGREE, mixed_job
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


def run(rounds: int, size: str, threads: int, lines_of_degree: int) -> None:
    """Run the job of each round in turns; writes the result after each round."""
    report = Report("B2", look=size != SIZE or lines_of_degree != LINES_OF_DEGREE)
    runs: Runs = {}
    present: dict[str, JobContestant] = {}
    try:
        for name, start in starters(size, threads, served_folder(size)).items():
            report.say(f"{name}: starting")
            present[name] = start()
            present[name].run(mixed_job(WARM_UP_SEED, WARM_UP_LINES))
            present[name].pause()
        for number in range(rounds):
            job = mixed_job(number, lines_of_degree)
            for name in rotated(list(present), number):
                found = _turn(report, name, present[name], job)
                runs.setdefault(name, []).append(found)
            report.write(rows_of(runs, size), targets(runs))
    finally:
        for contestant in present.values():
            contestant.close()
    report.conclude(rows_of(runs, size), targets(runs))


def rotated(names: list[str], number: int) -> list[str]:
    """The names, from another one on in each round."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


def targets(runs: Runs) -> list[Target]:
    """How many times faster than each of the others."""
    return [
        target(f"{other} / ours: makespan", _ratio(runs, other), bound)
        for other, bound in BOUNDS.items()
    ]


def rows_of(runs: Runs, size: str) -> list[Row]:
    """A row for each contestant, and for each ratio."""
    return [
        *(_row(name, [one.outcome for one in found], size) for name, found in runs.items()),
        *_ratio_rows(runs),
    ]


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
