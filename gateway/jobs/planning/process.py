"""The planning process: `python -m gateway.jobs.planning.process`, a child of the gateway.

Reads a `PlanRequest` from stdin, the token ids from an inherited file, writes a
`PlanReply` to stdout and exits; at once when stdin closes, since the gateway has ended.
"""

import argparse
import mmap
import os
import resource
import sys
from typing import Final

import numpy as np
import structlog

from gateway.child_process import STDIN, end_with_parent
from gateway.jobs.planning.messages import (
    EXPECTED,
    LENGTHS,
    TOKENS,
    PlanReply,
    PlanRequest,
    decode_request,
    encode,
)
from gateway.jobs.planning.plan import plan_lines
from gateway.jobs.prompts import JobPrompts, Tokens
from gateway.logs import set_up_logging

log = structlog.get_logger()

NICENESS: Final = 10  # live requests take precedence
MIB: Final = 1 << 20


def reply_to(request: PlanRequest, tokens: Tokens) -> PlanReply:
    """The plan, or the error if it needs more memory than allowed."""
    lengths = np.frombuffer(request.lengths, LENGTHS)
    starts = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)))
    try:
        plan = plan_lines(
            JobPrompts(tokens, starts),
            np.frombuffer(request.expected, EXPECTED).astype(np.float64),
            page_tokens=request.page_tokens,
            salt=request.salt,
            new_lines=request.new_lines,
            levels=request.levels,
        )
    except MemoryError:
        return PlanReply(error=f"it needed more than {request.memory_bytes // MIB} MiB of memory")
    return PlanReply.of(plan)


def _read_tokens(descriptor: int) -> Tokens:
    """The file's token ids, mapped: the system may drop and read again what it holds of them."""
    if not os.fstat(descriptor).st_size:
        return np.zeros(0, TOKENS)
    return np.frombuffer(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ), TOKENS)


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
    parser.add_argument("--tokens", type=int, required=True, help="descriptor of the token file")
    parser.add_argument("--request-bytes", type=int, required=True, help="size of the request")
    arguments = parser.parse_args()
    set_up_logging("info")
    os.nice(NICENESS)
    request = decode_request(_read_request(arguments.request_bytes))
    end_with_parent()
    _limit_memory(request.memory_bytes)
    reply = reply_to(request, _read_tokens(arguments.tokens))
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    log.info("job_planned", lines=len(request.lengths) // LENGTHS.itemsize, peak_kib=peak_kib)
    sys.stdout.buffer.write(encode(reply))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
