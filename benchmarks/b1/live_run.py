"""B1 live: counts, answers and pages of a job in groups, against order of arrival."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec import Struct

from benchmarks.b1.job import PAGE_TOKENS, JobLines, job, least, nested_job
from benchmarks.b1.live_job import LiveRun, run_in_groups, run_in_order_of_arrival
from benchmarks.b1.live_model import long_context_model
from benchmarks.engine.client import EngineProcess
from benchmarks.engine.workload import Request
from benchmarks.harness.report import Row, Target, target

LINES: Final = 400
DEGREES: Final = (2, 16)
KV_TOKENS: Final = (16_384, 65_536)
CANCEL_SEED: Final = 5
NESTED_SEED: Final = 1
NESTED_KV_TOKENS: Final = 8_192


class LiveCell(Struct, frozen=True):
    """A job at a size of the KV memory, run in three ways."""

    job: JobLines
    kv_tokens: int
    arrival: LiveRun
    groups: LiveRun
    cancelled: LiveRun

    @property
    def same(self) -> float:
        """Share of lines with the same answer in groups and in order of arrival."""
        one, other = self.groups.answers, self.arrival.answers
        return sum(one[line] == other[line] for line in other) / len(other)

    @property
    def wrong(self) -> int:
        """Runs after which the engine's pages were not consistent."""
        runs = (self.arrival, self.groups, self.cancelled)
        return sum(run.wrong is not None for run in runs)


def run_live(
    say: Callable[[str], None],
    publish: Callable[[list[Row], list[Target]], None],
    lines: int,
    threads: int,
) -> tuple[list[Row], list[Target]]:
    """Run each cell with this number of lines; `publish` gets the rows so far."""
    folder, cells = long_context_model(), list[LiveCell]()
    jobs = [degree_job(lines, degree) for degree in DEGREES]
    planned = [(job, kv_tokens) for kv_tokens in KV_TOKENS for job in jobs]
    for each, kv_tokens in [*planned, (nested_job(NESTED_SEED), NESTED_KV_TOKENS)]:
        cells.append(_cell(folder, each, kv_tokens, threads))
        say(described(cells[-1]))
        publish(rows_of(cells), targets(cells))
    return rows_of(cells), targets(cells)


def described(cell: LiveCell) -> str:
    """A line of progress."""
    return (
        f"live, degree {cell.job.shape}, {cell.kv_tokens:,} KV tokens: "
        f"{cell.groups.prefilled:,} prompt tokens in groups ({cell.job.least:,} at least), "
        f"{cell.arrival.prefilled:,} in order of arrival"
    )


def rows_of(cells: list[LiveCell]) -> list[Row]:
    """A row for each cell and way."""
    return [
        {
            "part": "live",
            "degree": cell.job.shape,
            "kv_tokens": cell.kv_tokens,
            "order": order,
            "prefilled": run.prefilled,
            "least": cell.job.least,
            "saved": 1 - run.prefilled / cell.job.logical,
            "same_answers": cell.same,
            "wall_s": run.wall_s,
            "preemptions": run.preemptions,
            "pins_lost": run.pins_lost,
        }
        for cell in cells
        for order, run in (("arrival, LRU", cell.arrival), ("groups", cell.groups))
    ]


def targets(cells: list[LiveCell]) -> list[Target]:
    """Every shared token once, equal answers, and clean pages."""
    excess = max((cell.groups.prefilled / cell.job.least - 1 for cell in cells), default=None)
    same = min((cell.same for cell in cells), default=None)
    wrong = float(sum(cell.wrong for cell in cells)) if cells else None
    return [
        target("live: prompt tokens computed beyond the least, share", excess, 0.0, "at most"),
        target("live: same answers in groups and in order of arrival", same, 1.0),
        target("live: runs with inconsistent pages", wrong, 0.0, "at most"),
    ]


def live_lines(count: int, degree: int) -> list[Request]:
    """The lines of a cell."""
    return job(count, degree, seed=degree)


def degree_job(count: int, degree: int) -> JobLines:
    """The job of a cell."""
    return JobLines(str(degree), live_lines(count, degree), least(count, degree))


def _cell(folder: Path, job: JobLines, kv_tokens: int, threads: int) -> LiveCell:
    def in_groups(cancel_seed: int | None) -> LiveRun:
        return _with_engine(
            kv_tokens,
            folder,
            threads,
            lambda engine: run_in_groups(engine, folder, job.lines, cancel_seed=cancel_seed),
        )

    return LiveCell(
        job=job,
        kv_tokens=kv_tokens,
        arrival=_with_engine(
            kv_tokens, folder, threads, lambda engine: run_in_order_of_arrival(engine, job.lines)
        ),
        groups=in_groups(None),
        cancelled=in_groups(CANCEL_SEED),
    )


def _with_engine(
    kv_tokens: int, folder: Path, threads: int, run: Callable[[EngineProcess], LiveRun]
) -> LiveRun:
    """Run in an engine of its own, with an empty cache."""
    with EngineProcess(
        f"B1-{kv_tokens}",
        folder,
        engine_threads=threads,
        engine_dtype="float32",
        kv_tokens=kv_tokens,
        page_tokens=PAGE_TOKENS,
        host_kv_tokens=0,
    ) as engine:
        return run(engine)
