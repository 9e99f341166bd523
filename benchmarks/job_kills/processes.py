"""The processes of a gateway: kills them, and samples their resident memory."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic, sleep
from types import TracebackType
from typing import Final, Self

import psutil
from msgspec import Struct

from benchmarks.live.gateway_process import GatewayProcess

INTERVAL_S: Final = 1.0
AWAY_S: Final = 120.0  # for a process that was killed to be there again
MODULES: Final = {"engine": "engine", "gateway.prediction.serving.process": "predictor"}
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


class Processes:
    """The processes that run now."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway

    def kill(self, part: str) -> None:
        """Kill a part as `kill -9` does; returns once another runs in its place."""
        if part == "gateway":
            self._gateway.kill()
            return
        killed = self.first(part)
        killed.kill()
        killed.wait(AWAY_S)
        end_s = monotonic() + AWAY_S
        while self._running(part) in (None, killed):
            if monotonic() > end_s:
                raise RuntimeError(f"{part} was not started again within {AWAY_S:.0f} s")
            sleep(0.05)

    def first(self, part: str) -> psutil.Process:
        """The part's process; PostgreSQL's is its server, the parent of others."""
        found = self._running(part)
        if found is None:
            raise RuntimeError(f"{part} does not run")
        return found

    def samples(self, done: float) -> Iterator[Sample]:
        """The memory of each part that runs."""
        for part in MEASURED:
            with suppress(psutil.NoSuchProcess, FileNotFoundError):  # it was just killed
                process = self.first(part)
                if part == "postgres":
                    size = sum(map(_private, [process, *process.children()]))
                else:
                    size = process.memory_info().rss
                yield Sample(part, process.pid, done, size)

    def _running(self, part: str) -> psutil.Process | None:
        try:
            if part == "postgres":
                file = self._gateway.data_dir / "postgres" / "postmaster.pid"
                return psutil.Process(int(file.read_text().split()[0]))
            gateway = psutil.Process(self._gateway.process.pid)
            if part == "gateway":
                return gateway
            return next((child for child in gateway.children() if _module(child) == part), None)
        except (psutil.NoSuchProcess, FileNotFoundError, IndexError):
            return None


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
                self.taken += self._processes.samples(self._done())


def _module(process: psutil.Process) -> str | None:
    """The part that a child of the gateway is."""
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        command = process.cmdline()
        if command[1:2] == ["-m"]:
            return MODULES.get(command[2])
    return None


def _private(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess):
        memory = process.memory_info()
        return int(memory.rss - memory.shared)
    return 0
