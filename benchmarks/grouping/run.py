"""grouping: time and memory of planning 100,000 lines of 2,000 tokens; orders of lines."""

import asyncio
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import numpy as np
import psutil
from msgspec import Struct

from benchmarks.grouping.jobs import SHAPES, JobShape
from benchmarks.grouping.order import DEGREES, measure_orders
from benchmarks.harness.paths import CACHE
from benchmarks.harness.report import Report, Row, Target, target
from gateway.jobs.planning.client import QueuedPrompts, plan_in_process
from gateway.jobs.planning.plan import JobPlan
from gateway.jobs.planning.prompt_file import PromptFile

LINES: Final = 100_000
PAGE_TOKENS: Final = 16
MAX_S: Final = 60.0
MAX_MIB: Final = 2_000.0
MAX_STALL_MS: Final = 50.0
SAMPLED_S: Final = 0.01
MIB: Final = 1 << 20


class PlanTrace(Struct, frozen=True):
    """A plan, its time, and memory in MiB, the mapped tokens included.

    `peak_mib` is of the planning process, `added_mib` what its plan added to the asking process,
    whose event loop stood still for `stall_ms` at most.
    """

    plan: JobPlan
    took_s: float
    peak_mib: float
    added_mib: float
    stall_ms: float


def run(lines: int) -> None:
    """Plan each job; writes the result after each."""
    report = Report("grouping", look=lines != LINES)
    rows: list[Row] = []
    for shape in SHAPES:
        trace = asyncio.run(_trace(shape, lines))
        rows.append(row_of(shape, lines, trace))
        report.say(
            f"{shape.name}: {trace.took_s:.1f} s, {trace.peak_mib:,.0f} MiB at most; the event "
            f"loop stood {trace.stall_ms:.0f} ms; {trace.plan.report.saved_share:.1%} saved"
        )
        report.write(rows, targets(rows))
    for degree in DEGREES:
        report.say(f"orders of lines in groups of {degree}")
        rows += measure_orders(degree)
    report.conclude(rows, targets(rows))


def row_of(shape: JobShape, lines: int, trace: PlanTrace) -> Row:
    """What a plan took, and what it saves."""
    found = trace.plan.report
    movable = found.movable
    return {
        "job": shape.name,
        "lines": lines,
        "tokens a line": shape.tokens,
        "seconds": trace.took_s,
        "peak_mib": trace.peak_mib,
        "added_mib": trace.added_mib,
        "stall_ms": trace.stall_ms,
        "saved": found.saved_share,
        "optimum": shape.optimum(lines, PAGE_TOKENS),
        "saved_if_moved": movable and movable.would_save_tokens / found.prompt_tokens,
    }


def targets(rows: list[Row]) -> list[Target]:
    """Bounds on the slowest and the largest plan; orders that take less time than ours."""
    plans = [row for row in rows if "job" in row]
    orders = [row["makespan"] for row in rows if "order" in row]
    missing = max((abs(row["optimum"] - row["saved"]) for row in plans), default=None)
    memory = max((row["peak_mib"] + max(row["added_mib"], 0) for row in plans), default=None)
    return [
        target("seconds a plan", max(row["seconds"] for row in plans), MAX_S, "at most"),
        target("MiB of both processes", memory, MAX_MIB, "at most"),
        target(
            "ms without the event loop",
            max(row["stall_ms"] for row in plans),
            MAX_STALL_MS,
            "at most",
        ),
        target("saving, off the optimum", missing, 1e-4, "at most"),
        target("makespan of any order over ours", min(orders, default=None), 0.995),
    ]


async def _trace(shape: JobShape, lines: int) -> PlanTrace:
    CACHE.mkdir(exist_ok=True)
    own = psutil.Process()
    with closing(PromptFile(Path(CACHE))) as file, closing(PromptFile()) as none:
        for prompts in shape.chunks(lines):
            await file.append(prompts)
        expected = np.random.default_rng(2).uniform(1, 200, lines)
        before, began = own.memory_info().rss, time.monotonic()
        planning = asyncio.create_task(
            plan_in_process(
                file,
                expected,
                QueuedPrompts(none, np.zeros(0, np.int64)),
                page_tokens=PAGE_TOKENS,
                salt="tenant",
            )
        )
        peak = added = 0
        stall_s = 0.0
        while not planning.done():
            slept = time.monotonic()
            await asyncio.sleep(SAMPLED_S)
            stall_s = max(stall_s, time.monotonic() - slept - SAMPLED_S)
            added = max(added, own.memory_info().rss - before)
            with suppress(psutil.NoSuchProcess):
                peak = max([peak, *(each.memory_info().rss for each in own.children())])
        took_s = time.monotonic() - began
    return PlanTrace(await planning, took_s, peak / MIB, added / MIB, 1e3 * stall_s)
