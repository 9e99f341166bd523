"""The processes of a gateway, to kill and to stop."""

from contextlib import suppress
from time import monotonic, sleep
from typing import Final

import psutil

from benchmarks.live.gateway_process import GatewayProcess

AWAY_S: Final = 120.0  # for a process that was killed to be there again
MODULES: Final = {"engine": "engine", "gateway.prediction.serving.process": "predictor"}


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
        self._wait_for_another(part, killed)

    def suspend(self, part: str) -> None:
        """Stop a part as `kill -STOP` does; returns once another runs in its place."""
        stopped = self.first(part)
        family = [stopped, *(stopped.children() if part == "postgres" else [])]
        for process in family:
            with suppress(psutil.NoSuchProcess):  # a backend that has just ended
                process.suspend()
        self._wait_for_another(part, stopped)

    def first(self, part: str) -> psutil.Process:
        """The part's process; PostgreSQL's is its server, the parent of others."""
        found = self.running(part)
        if found is None:
            raise RuntimeError(f"{part} does not run")
        return found

    def _wait_for_another(self, part: str, before: psutil.Process) -> None:
        end_s = monotonic() + AWAY_S
        while self.running(part) in (None, before):
            if monotonic() > end_s:
                raise RuntimeError(f"{part} was not started again within {AWAY_S:.0f} s")
            sleep(0.05)

    def running(self, part: str) -> psutil.Process | None:
        """The part's process; None if none runs."""
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


def _module(process: psutil.Process) -> str | None:
    """The part that a child of the gateway is."""
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        command = process.cmdline()
        if command[1:2] == ["-m"]:
            return MODULES.get(command[2])
    return None
