"""Samples the resident memory of a gateway's processes."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import psutil
from msgspec import Struct

from benchmarks.live.processes import Processes

INTERVAL_S: Final = 1.0
KILLED: Final = ("engine", "postgres", "gateway")
MEASURED: Final = ("gateway", "engine", "predictor", "postgres")


class Sample(Struct, frozen=True):
    """Memory of a part, all its processes together; `pid` is another after it was killed.

    `done` is the share of the job that had ended. Pages that PostgreSQL's processes share with
    others are left out.
    """

    part: str
    pid: int
    done: float
    rss_bytes: int


class MemorySamples:
    """While it is entered, samples are taken in a thread; `done` is the share of the job."""

    def __init__(self, processes: Processes, done: Callable[[], float]) -> None:
        self.taken: list[Sample] = []
        self._processes = processes
        self._done = done
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            with suppress(RuntimeError):  # a part that is being started again
                self.taken += _samples(self._processes, self._done())


def _samples(processes: Processes, done: float) -> Iterator[Sample]:
    """The memory of each part that runs."""
    for part in MEASURED:
        with suppress(psutil.NoSuchProcess, FileNotFoundError):  # it was just killed
            process = processes.first(part)
            if part == "postgres":
                size = sum(map(_private, [process, *process.children()]))
            else:
                size = process.memory_info().rss
            yield Sample(part, process.pid, done, size)


def _private(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess):
        memory = process.memory_info()
        return int(memory.rss - memory.shared)
    return 0
