"""job-kills: a job of 100,000 lines while each of its processes is killed twice."""

import tempfile
from collections.abc import Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path
from statistics import median
from time import monotonic, sleep
from typing import Any, Final

from benchmarks.harness.paths import ROOT
from benchmarks.harness.report import Report, Row, Target, target
from benchmarks.job_kills.job import MODEL, Kept, kept_of, submit, write_lines
from benchmarks.job_kills.processes import KILLED, MEASURED, MemorySamples, Sample
from benchmarks.live.gateway_process import API_KEY, GatewayProcess
from benchmarks.live.processes import Processes
from gateway.cli.batch.client import BatchClient
from gateway.errors import LmaasError

FIGURE: Final = "job-kills"
LINES: Final = 100_000
ROUNDS: Final = 2
KV_TOKENS: Final = 32_768  # memory for KV counts as resident once it was used, which it soon is
FIRST_KILL: Final = 0.025  # of the lines, and so between two kills
MEASURED_FROM: Final = 0.4  # share of the lines; the last kill is before
LAST: Final = 0.9
MOST_GROWTH: Final = 0.05
POLL_S: Final = 0.2
RECORDS_S: Final = 60.0
MIB: Final = 1 << 20
DEMO: Final = ROOT / "engine" / "demo" / MODEL
ENDED: Final = ("completed", "failed", "expired", "cancelled")


def run(lines: int, rounds: int) -> None:
    """Run the job with this many kills of each part."""
    report = Report(FIGURE, (lines, rounds) != (LINES, ROUNDS))
    with (
        tempfile.TemporaryDirectory(prefix="lmaas-lines-") as folder,
        GatewayProcess(FIGURE, engine_threads=1, kv_tokens=KV_TOKENS) as gateway,
    ):
        path = Path(folder) / "lines.jsonl"
        write_lines(path, lines, DEMO)
        job = _Job(report, gateway, submit(gateway.url, API_KEY, path), lines)
        with MemorySamples(job.processes, job.done) as memory:
            kills = job.run_with_kills(rounds)
        kept = job.kept()
    rows = [job_row(lines, job.wall_s, kills, kept), *memory_rows(memory.taken)]
    report.conclude(rows, targets(rows))


class _Job:
    """The running job: its state is asked for again and again, whatever is away."""

    def __init__(self, report: Report, gateway: GatewayProcess, batch_id: str, lines: int) -> None:
        self.processes = Processes(gateway)
        self.wall_s = 0.0
        self._report = report
        self._gateway = gateway
        self._id = batch_id
        self._lines = lines
        self._batch: dict[str, Any] = {"status": "validating"}

    def done(self) -> float:
        """The share of the lines that have ended."""
        counts = self._batch.get("request_counts") or {"completed": 0, "failed": 0}
        return float(counts["completed"] + counts["failed"]) / self._lines

    def run_with_kills(self, rounds: int) -> int:
        """Wait for the job's end and kill each part in turn meanwhile; returns the kills."""
        due = [*KILLED] * rounds
        began_s = monotonic()
        for number, part in enumerate(due, start=1):
            self._wait(number * FIRST_KILL)
            self._report.say(f"{self.done():.1%} of the lines done: kill -9 of the {part}")
            self.processes.kill(part)
        self._wait(None)
        self.wall_s = monotonic() - began_s
        return len(due)

    def kept(self) -> Kept:
        """What was kept, once history has a record of each line or is late."""
        end_s = monotonic() + RECORDS_S
        url = self._gateway.database_url
        while True:
            kept = kept_of(
                self._gateway.url, API_KEY, self._batch["output_file_id"], url, self._lines
            )
            if not kept.unrecorded or monotonic() > end_s:
                return kept
            sleep(1.0)

    def _wait(self, share: float | None) -> None:
        """Return when this share of the lines has ended; None: when the job has."""
        while share is None or self.done() < share:
            self._ask()
            if self._batch["status"] in ENDED:
                if self._batch["status"] != "completed" or share is not None:
                    raise RuntimeError(f"the batch is {self._batch['status']} too early")
                return
            sleep(POLL_S)

    def _ask(self) -> None:
        try:
            with closing(BatchClient(self._gateway.url, API_KEY)) as client:
                self._batch = client.show(self._id)
        except LmaasError:
            sleep(POLL_S)  # PostgreSQL is away


def job_row(lines: int, wall_s: float, kills: int, kept: Kept) -> Row:
    """What became of the lines."""
    return {
        "lines": lines,
        "kills": kills,
        "wall_s": wall_s,
        "lines_per_s": lines / wall_s,
        "lost": kept.lost,
        "doubled": kept.doubled,
        "unrecorded": kept.unrecorded,
        "recorded_again": kept.recorded_again,
    }


def memory_rows(samples: Sequence[Sample]) -> list[Row]:
    """For each part, its memory at the start of the measured part of the job, and at its end."""
    rows: list[Row] = []
    for part in MEASURED:
        found = [sample for sample in samples if sample.part == part]
        last = [sample for sample in found if found and sample.pid == found[-1].pid]
        early = [s.rss_bytes for s in last if MEASURED_FROM <= s.done < MEASURED_FROM + 1 - LAST]
        late = [s.rss_bytes for s in last if s.done >= LAST]
        if not early or not late:
            continue
        rows.append(
            {
                "part": part,
                "mib_at_40": median(early) / MIB,
                "mib_at_end": median(late) / MIB,
                "growth": median(late) / median(early) - 1,
                "mib_peak": max(sample.rss_bytes for sample in found) / MIB,
                "over_time": _course(found),
            }
        )
    return rows


def targets(rows: Sequence[Row]) -> list[Target]:
    """Every line once, and memory that does not grow with the lines."""
    jobs = [row for row in rows if "lost" in row]
    names = ("lost", "doubled", "unrecorded", "recorded_again")
    wrong = max((row[name] for row in jobs for name in names), default=None)
    growth = max((row["growth"] for row in rows if "growth" in row), default=None)
    return [
        target("lines lost or doubled, in the output or in history", wrong, 0, "at most"),
        target("growth of memory from 40 % of the lines on", growth, MOST_GROWTH, "at most"),
    ]


def _course(samples: Sequence[Sample]) -> list[dict[str, float]]:
    """Memory by process and share of the lines, in steps of 5 %."""
    return [
        {"pid": pid, "done": share, "mib": median(sample.rss_bytes for sample in group) / MIB}
        for (pid, share), group in groupby(samples, lambda s: (s.pid, round(20 * s.done) / 20))
    ]
