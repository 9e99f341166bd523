"""The planning process: `python -m gateway.jobs.planning.process`, a child of the gateway.

Reads a `PlanRequest` from stdin, the prompts from two inherited files, writes a `PlanReply` to
stdout and exits; at once when stdin closes, since the gateway has ended.
"""

import argparse
import os
import resource
import sys
from typing import Final

import numpy as np
import structlog

from gateway.child_process import STDIN, end_with_parent
from gateway.jobs.planning.messages import (
    EXPECTED,
    HASHES,
    LENGTHS,
    TOKENS,
    PlanReply,
    PlanRequest,
    decode_request,
    encode,
)
from gateway.jobs.planning.plan import QueuedLines, plan_lines
from gateway.jobs.planning.prompt_file import read_prompt_file
from gateway.jobs.prompts import Hashes, Ints, JobPrompts, PromptPages, Tokens
from gateway.logs import set_up_child_logging

log = structlog.get_logger()

NICENESS: Final = 10  # live requests take precedence
MIB: Final = 1 << 20


def reply_to(request: PlanRequest, tokens: Tokens, hashes: Hashes) -> PlanReply:
    """The plan, or the error if it needs more memory than allowed."""
    starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(_lengths(request.lengths))))
    try:
        plan = plan_lines(
            JobPrompts(tokens, starts),
            np.frombuffer(request.expected, EXPECTED).astype(np.float64),
            page_tokens=request.page_tokens,
            salt=request.salt,
            queued=QueuedLines(
                PromptPages.read(hashes, _lengths(request.queued_pages)),
                _lengths(request.queued_lengths),
                frozenset(request.opened),
            ),
        )
    except MemoryError:
        return PlanReply(error=f"it needed more than {request.memory_bytes // MIB} MiB of memory")
    return PlanReply.of(plan)


def _lengths(content: bytes) -> Ints:
    return np.frombuffer(content, LENGTHS).astype(np.int64)


def _read_request(size: int) -> bytes:
    """The request. SystemExit if the gateway ends before it has sent it."""
    content = bytearray()
    while len(content) < size:
        part = os.read(STDIN, size - len(content))
        if not part:
            sys.exit("the gateway ended before it had sent its request")
        content += part
    return bytes(content)


def _limit_memory(size: int) -> None:
    """Let allocations fail beyond this size; file mappings do not count."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Plan the lines of batch jobs.")
    parser.add_argument("--tokens", type=int, required=True, help="descriptor of the new lines")
    parser.add_argument("--pages", type=int, required=True, help="descriptor of the queued lines")
    parser.add_argument("--request-bytes", type=int, required=True, help="size of the request")
    arguments = parser.parse_args()
    set_up_child_logging("info")
    os.nice(NICENESS)
    request = decode_request(_read_request(arguments.request_bytes))
    end_with_parent()
    _limit_memory(request.memory_bytes)
    tokens = read_prompt_file(arguments.tokens, TOKENS)
    reply = reply_to(request, tokens, read_prompt_file(arguments.pages, HASHES))
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    log.info("job_planned", lines=len(request.lengths) // LENGTHS.itemsize, peak_kib=peak_kib)
    sys.stdout.buffer.write(encode(reply))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
