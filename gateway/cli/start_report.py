"""Lines that a starting process prints: what it does, and that it still does it."""

import threading
import time
from types import TracebackType
from typing import Final, Self

import click

REPORT_S: Final = 4.0  # longest silence


class StartReport:
    """Prints lines with the seconds since the start.

    A line is printed again, with its own seconds, while no other one follows: also while the
    process is busy, so it needs a thread.
    """

    def __init__(self, report_s: float = REPORT_S) -> None:
        self._report_s = report_s
        self._began_s = self._line_s = self._printed_s = time.monotonic()
        self.line = ""  # what begins, or began last
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="start-report", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def __call__(self, line: str) -> None:
        """Print what begins now."""
        with self._lock:
            self.line, self._line_s = line, time.monotonic()
            self._print(line)

    def end(self) -> None:
        """Repeat nothing from now on."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _repeat(self) -> None:
        while not self._ended.wait(self._report_s / 10):
            with self._lock:
                now_s = time.monotonic()
                if self.line and now_s - self._printed_s >= self._report_s:
                    self._print(f"{self.line}, {now_s - self._line_s:.0f} s")

    def _print(self, line: str) -> None:
        self._printed_s = time.monotonic()
        click.echo(f"{self._printed_s - self._began_s:6.1f} s  {line}", err=True)
