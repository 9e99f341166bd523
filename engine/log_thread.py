"""Writes the log in a thread, so that a reader or a disk that stalls stops nothing else."""

import atexit
import os
from functools import cache
from io import TextIOBase
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Final

import structlog

MAX_WAITING: Final = 10_000  # lines, while what reads the log takes none
GROUP: Final = 256  # lines of a write
CLOSE_S: Final = 1.0
STDERR: Final = 2


class LogThread(TextIOBase):
    """A file whose lines a thread writes to a descriptor.

    Beyond `MAX_WAITING` lines that wait, further ones are dropped, and their number is logged.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: SimpleQueue[str | Event] = SimpleQueue()
        self._dropped = 0
        Thread(target=self._work, name="log", daemon=True).start()

    def write(self, line: str) -> int:
        """Have a line written; it may be dropped."""
        if self._lines.qsize() < MAX_WAITING:
            self._lines.put(line)
        else:
            self._dropped += 1
        return len(line)

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Whether people read it."""
        return os.isatty(self._descriptor)

    def drain(self, within_s: float = CLOSE_S) -> bool:
        """Wait until the lines so far are written; whether they were in this time."""
        written = Event()
        self._lines.put(written)
        return written.wait(within_s)

    def _work(self) -> None:
        while True:
            found = self._take()
            lines = "".join(each for each in found if isinstance(each, str))
            self._write(memoryview(lines.encode(errors="backslashreplace")))
            for each in found:
                if isinstance(each, Event):
                    each.set()
            if self._dropped and self._lines.qsize() < MAX_WAITING:
                dropped, self._dropped = self._dropped, 0
                structlog.get_logger().warning("log_lines_dropped", lines=dropped)

    def _take(self) -> list[str | Event]:
        """What waits, at least one and not more than a group."""
        found = [self._lines.get()]
        try:
            while len(found) < GROUP:
                found.append(self._lines.get_nowait())
        except Empty:
            pass
        return found

    def _write(self, data: memoryview) -> None:
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:  # nothing reads it any more
            return


@cache
def standard_error() -> LogThread:
    """Standard error, written in a thread that is waited for a moment when the process ends.

    Call `drain` before `os._exit`. What is logged in the last moment before a kill is not written.
    """
    made = LogThread(STDERR)
    atexit.register(made.drain)
    return made
