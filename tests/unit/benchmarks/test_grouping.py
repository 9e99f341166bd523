"""The jobs that are planned, and the simulated engine that compares orders."""

import asyncio
from contextlib import closing

import numpy as np
import pytest

from benchmarks.grouping.jobs import SHAPES, JobShape
from benchmarks.grouping.order import measure_orders
from benchmarks.grouping.run import PAGE_TOKENS, PlanTrace, row_of, targets
from gateway.jobs.planning.plan import plan_lines
from gateway.jobs.planning.prompt_file import PromptFile
from gateway.jobs.prompts import JobPrompts

LINES = 300


def prompts_of(shape: JobShape) -> JobPrompts:
    chunks = list(shape.chunks(LINES))
    tokens = np.concatenate([chunk.tokens for chunk in chunks])
    return JobPrompts(tokens, np.arange(LINES + 1) * shape.tokens)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_plan_saves_the_optimum_and_meets_the_targets(shape: JobShape) -> None:
    plan = plan_lines(
        prompts_of(shape),
        np.ones(LINES),
        page_tokens=PAGE_TOKENS,
        salt="tenant",
    )
    row = row_of(shape, LINES, PlanTrace(plan, 5.0, 1_100.0, -3.0, 4.0))
    assert row["saved"] == pytest.approx(row["optimum"])
    assert (row["saved_if_moved"] is not None) == (shape.id > 0)
    assert [each.met for each in targets([row])] == [True] * 4 + [False]  # no order was measured


async def test_chunks_reach_the_file_as_they_are() -> None:
    with closing(PromptFile()) as file:
        for chunk in SHAPES[0].chunks(LINES):
            await file.append(chunk)
        lengths = np.frombuffer(file.lengths, np.uint32)
        content = await asyncio.to_thread(np.memmap, f"/proc/self/fd/{file.descriptor}", np.uint32)
        assert content.tolist() == prompts_of(SHAPES[0]).tokens.tolist()
    assert lengths.tolist() == [SHAPES[0].tokens] * LINES


def test_no_other_order_takes_less_time() -> None:
    ours, *others = measure_orders(64)
    assert (ours["makespan"], ours["pinned"]) == (1, 1)
    assert min(row["makespan"] for row in others) > 0.995
    assert max(row["makespan"] for row in others) > 1.05
