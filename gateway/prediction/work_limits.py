"""Limits of the time that threads may take for a piece of work: what takes longer hangs.

A thread cannot be ended from outside, so a process with one that hangs has to end.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Final

# Large libraries import parts of one another: two threads that import some at the same time may
# see half of a module.
IMPORTING: Final = Lock()


class WorkHung(Exception):
    """A piece of work has passed its limit."""


class WorkLimits:
    """The work that threads are at, each with its deadline; thread-safe."""

    def __init__(self) -> None:
        self._deadlines: dict[str, tuple[float, float]] = {}

    @contextmanager
    def limit(self, work: str, limit_s: float) -> Iterator[None]:
        """Bound what is done meanwhile; no two threads may be at work of the same name."""
        self._deadlines[work] = (time.monotonic() + limit_s, limit_s)
        try:
            yield
        finally:
            del self._deadlines[work]

    def check(self) -> None:
        """WorkHung if a thread has passed its limit."""
        now_s = time.monotonic()
        for work, (deadline_s, limit_s) in self._deadlines.copy().items():
            if now_s > deadline_s:
                raise WorkHung(f"to {work} took longer than {limit_s:g} s")
