"""Plans batch jobs in a process of its own, which ends with each plan and gives its memory back."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Collection
from contextlib import suppress
from typing import Final

import structlog
from msgspec import Struct

from gateway.child_process import child_environment
from gateway.jobs.planning.messages import EXPECTED, LENGTHS, PlanRequest, decode_reply, encode
from gateway.jobs.planning.plan import JobPlan
from gateway.jobs.planning.prompt_file import PromptFile
from gateway.jobs.prompts import Ints
from gateway.quantiles import Floats

log = structlog.get_logger()

COMMAND: Final = (sys.executable, "-m", "gateway.jobs.planning.process")
ENVIRONMENT: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
DEADLINE_S: Final = 120.0  # 100,000 lines of 2,000 tokens take 4 s of a core of its own
MEMORY_BYTES: Final = 1 << 30  # of the process, the mapped files apart


class PlanningFailed(Exception):
    """The planning process died, needed too much memory or did not finish in time.

    The message has the reason. The lines can run without groups, in any order.
    """


class QueuedPrompts(Struct, frozen=True):
    """The queued lines of a plan, `QueuedLines`, with their pages in a file."""

    pages: PromptFile
    prompt_tokens: Ints
    opened: Collection[str] = ()


async def plan_in_process(
    prompts: PromptFile,
    expected: Floats,
    queued: QueuedPrompts,
    *,
    page_tokens: int,
    salt: str,
    deadline_s: float = DEADLINE_S,
    memory_bytes: int = MEMORY_BYTES,
) -> JobPlan:
    """`plan_lines` in a process of its own. PlanningFailed if it dies or takes too long."""
    assert len(expected) == len(queued.pages) + len(prompts)
    request = encode(
        PlanRequest(
            lengths=prompts.lengths,
            queued_lengths=queued.prompt_tokens.astype(LENGTHS).tobytes(),
            queued_pages=queued.pages.lengths,
            opened=list(queued.opened),
            expected=expected.astype(EXPECTED).tobytes(),
            page_tokens=page_tokens,
            salt=salt,
            memory_bytes=memory_bytes,
        )
    )
    try:
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            *("--tokens", str(prompts.descriptor), "--pages", str(queued.pages.descriptor)),
            *("--request-bytes", str(len(request))),
            stdin=PIPE,
            stdout=PIPE,
            pass_fds=(prompts.descriptor, queued.pages.descriptor),
            env=child_environment() | ENVIRONMENT,
            start_new_session=True,  # Ctrl-C is the gateway's to handle
        )
    except OSError as error:
        raise PlanningFailed(f"the planning process did not start: {error}") from error
    log.info("job_planning_started", lines=len(prompts), queued=len(queued.pages), pid=process.pid)
    try:
        async with asyncio.timeout(deadline_s):
            content = await _exchange(process, request)
    except TimeoutError:
        raise PlanningFailed(f"the plan was not made within {deadline_s:g} s") from None
    finally:
        await _end(process)
    if process.returncode:
        raise PlanningFailed(_reason(process.returncode))
    reply = decode_reply(content)
    if reply.error is not None:
        raise PlanningFailed(f"the planning process failed: {reply.error}")
    return await asyncio.to_thread(reply.plan)


async def _exchange(process: Process, request: bytes) -> bytes:
    """Send the request and read the reply; stdin stays open until the process has exited."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(BrokenPipeError, ConnectionResetError):  # it died; its exit code has the reason
        process.stdin.write(request)
        await process.stdin.drain()
    content = await process.stdout.read()
    await process.wait()
    return content


async def _end(process: Process) -> None:
    """Kill the process if it has not exited."""
    assert process.stdin is not None
    if process.returncode is None:
        process.kill()
        await process.wait()
    process.stdin.close()


def _reason(code: int) -> str:
    if code < 0:
        return f"the planning process was killed by signal {-code}"
    return f"the planning process exited with code {code}; its log has the reason"
