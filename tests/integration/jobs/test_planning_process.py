"""The planning process: its plan is the function's, and its failures are reported."""

import asyncio
import os
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from gateway.jobs.planning import client
from gateway.jobs.planning.client import PlanningFailed, QueuedPrompts, plan_in_process
from gateway.jobs.planning.plan import JobPlan, QueuedLines, plan_lines
from gateway.jobs.planning.prompt_file import PromptFile
from gateway.jobs.prompts import JobPrompts, PromptPages
from tests.conftest import PATIENCE_S

PAGE = 4
QUEUED = 200
random = np.random.default_rng(1)
DOCUMENTS = random.integers(0, 1_000, (30, 40)).tolist()
PROMPTS = [[*([7] * 8), *DOCUMENTS[n % 30], *random.integers(0, 9, n % 5 + 1)] for n in range(500)]
EXPECTED = random.random(500).astype(np.float32).astype(np.float64)


async def plan(
    prompts: list[list[int]],
    expected: np.ndarray,
    folder: Path | None = None,
    *,
    deadline_s: float = PATIENCE_S,
    memory_bytes: int = client.MEMORY_BYTES,
) -> JobPlan:
    """The first QUEUED of these are queued already."""
    queued = JobPrompts.of(prompts[:QUEUED])
    with closing(PromptFile(folder)) as file, closing(PromptFile(folder)) as pages:
        await pages.append(PromptPages.of(queued, PAGE))
        for first in range(QUEUED, len(prompts), 64):
            await file.append(JobPrompts.of(prompts[first : first + 64]))
        return await plan_in_process(
            file,
            expected,
            QueuedPrompts(pages, queued.lengths),
            page_tokens=PAGE,
            salt="acme",
            deadline_s=deadline_s,
            memory_bytes=memory_bytes,
        )


@pytest.mark.parametrize("lines", [0, 1, 500])
async def test_process_makes_the_plan_of_the_function(lines: int, tmp_path: Path) -> None:
    found = await plan(PROMPTS[:lines], EXPECTED[:lines], tmp_path)
    queued = JobPrompts.of(PROMPTS[: min(lines, QUEUED)])
    made = plan_lines(
        JobPrompts.of(PROMPTS[QUEUED:lines]),
        EXPECTED[:lines],
        page_tokens=PAGE,
        salt="acme",
        queued=QueuedLines(PromptPages.of(queued, PAGE), queued.lengths),
    )
    for one, other in (
        (found.groups.group_of, made.groups.group_of),
        (found.groups.prefix_tokens, made.groups.prefix_tokens),
        (found.groups.parent, made.groups.parent),
        (found.ranks, made.ranks),
    ):
        assert one.tolist() == other.tolist()
    assert (found.ids, found.report) == (made.ids, made.report)
    assert list(tmp_path.iterdir()) == []


async def test_process_without_memory_is_reported() -> None:
    with pytest.raises(PlanningFailed, match="more than 1 MiB of memory"):
        await plan(PROMPTS, EXPECTED, memory_bytes=1 << 20)


async def test_process_past_its_deadline_is_killed() -> None:
    with pytest.raises(PlanningFailed, match="not made within 0 s"):
        await plan(PROMPTS, EXPECTED, deadline_s=0)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
        ("raise SystemExit(3)", "exited with code 3"),
    ],
)
async def test_process_that_dies_is_reported(
    program: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "COMMAND", (sys.executable, "-c", program))
    with pytest.raises(PlanningFailed, match=reason):
        await plan(PROMPTS, EXPECTED)


async def test_program_that_is_not_there_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "COMMAND", ("/nowhere/python",))
    with pytest.raises(PlanningFailed, match="did not start"):
        await plan(PROMPTS, EXPECTED)


async def test_cancelled_plan_ends_its_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "alive")
    program = (
        "import sys, time; alive = open(sys.argv[1], 'wb', 0); alive.write(b'1'); "
        f"time.sleep({PATIENCE_S})"
    )
    command = (sys.executable, "-c", program, str(tmp_path / "alive"))
    monkeypatch.setattr(client, "COMMAND", command)
    planning = asyncio.create_task(plan(PROMPTS, EXPECTED))
    with await asyncio.to_thread(open, tmp_path / "alive", "rb", 0) as alive:
        assert await asyncio.to_thread(alive.read, 1) == b"1"
        planning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await planning
        assert await asyncio.to_thread(alive.read, 1) == b""  # closed with the process
