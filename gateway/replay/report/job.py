"""The part of a comparison on a batch job: its tables, and its description."""

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct
from rich.table import Table

from gateway.replay.plan import JobRow, PolicyComparison, ReplayPlan
from gateway.replay.report.table import Column, cell_of, table_of

TIMES: Final = (
    ("TTFT s\np50", "ttft_p50_s"),
    ("\np99", "ttft_p99_s"),
    ("response s\np50", "p50_s"),
    ("\np99", "p99_s"),
)
JOB: Final = (
    Column("makespan\ns", "makespan_s", decimals=0),
    Column("\nlines/s", "lines_s"),
    Column("saved prefill\n%", "saved_prefill", 100, 1),
    Column("\npins", "pins", decimals=0),
    Column("pins\nlost", "pins_lost", decimals=0),
    Column("preemptions\nof lines", "preemptions_batch", decimals=0),
    Column("\nof others", "preemptions_interactive", decimals=0),
)


class JobSummary(Struct, frozen=True, kw_only=True):
    """A job next to the requests. `could_save` is the share of its prompt tokens that is shared."""

    name: str
    start_s: float
    lines: int
    prompt_tokens: int
    could_save: float
    rows: list[JobRow]

    @property
    def fact(self) -> str:
        """The job, in a line."""
        return (
            f"job: {self.name}, after {self.start_s:,g} s; {self.prompt_tokens:,} prompt tokens, "
            f"of which {self.could_save:.1%} can be saved"
        )


def summarise_job(plan: ReplayPlan, found: PolicyComparison) -> JobSummary | None:
    """The job of a comparison; None without one."""
    job = plan.job
    if job is None:
        return None
    return JobSummary(
        name=job.name,
        start_s=job.start_s,
        lines=len(job),
        prompt_tokens=int(job.prompt_tokens.sum()),
        could_save=job.saved_share,
        rows=found.job_rows,
    )


def job_tables(rows: Sequence[JobRow]) -> Iterator[Table]:
    """What the job does to interactive requests, and what becomes of it."""
    if not rows:
        return
    headings = [heading for heading, _ in TIMES]
    yield table_of("Interactive requests without → with the job", headings, rows, _changes)
    yield table_of(
        "The job",
        [column.heading for column in JOB],
        rows,
        lambda row: [cell_of(row.job[column.measure], column) for column in JOB],
    )


def _changes(row: JobRow) -> list[str]:
    found = []
    for _, name in TIMES:
        column = Column("", name)
        before, after = row.without[name], row.with_job[name]
        change = f"{after.mean / before.mean - 1:+.0%}" if before.mean else ""
        found.append(f"{cell_of(before, column)} → {cell_of(after, column)} {change}".rstrip())
    return found
