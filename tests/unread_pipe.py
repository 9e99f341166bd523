"""A full pipe that nothing reads, as of a log collector that stands still."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def unread_pipe() -> Iterator[int]:
    """The end to write to: a write that may block does, for ever."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writes, b"x" * 4096)
    with suppress(BlockingIOError):
        while True:
            os.write(writes, b"x")
    os.set_blocking(writes, True)
    try:
        yield writes
    finally:
        os.close(reads)
        os.close(writes)
