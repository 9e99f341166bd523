"""Engines of one model, each started as `lmaas engine`, for a gateway that has their sockets."""

import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Final, Self

from benchmarks.harness.paths import ROOT, log_file
from benchmarks.harness.processes import end_process
from benchmarks.live.gateway_process import STOP_TIMEOUT_S, GatewayProcess, environment
from gateway.engines.supervisor import NICENESS

CONNECT_S: Final = 120.0
NICE: Final = ("nice", "-n", str(NICENESS))  # as a gateway starts its own engine


class EngineProcesses:
    """As many engines, with these `LMAAS_*` settings; they end when the context is left."""

    def __init__(self, name: str, count: int, settings: Mapping[str, object]) -> None:
        self._name = name
        self._settings = settings
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="lmaas-bench-")))
        self._sockets = [self._folder / f"{number}.sock" for number in range(count)]

    @property
    def sockets(self) -> str:
        """Their sockets, as `LMAAS_ENGINE_SOCKET` of the gateway."""
        return ",".join(map(str, self._sockets))

    def __enter__(self) -> Self:
        try:
            for number, socket in enumerate(self._sockets):
                self._start(number, socket)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def wait(self, gateway: GatewayProcess) -> None:
        """Wait until all are connected to the gateway. RuntimeError if they are not in time."""
        end_s = monotonic() + CONNECT_S
        with gateway.admin() as admin:
            while not all(each["connected"] for each in admin.get("/admin/engine")["engines"]):
                if monotonic() > end_s:
                    raise RuntimeError(f"not all engines are connected after {CONNECT_S:.0f} s")
                sleep(0.1)

    def _start(self, number: int, socket: Path) -> None:
        settings = {**self._settings, "engine_socket": socket, "log_level": "warning"}
        with log_file(f"{self._name}-engine-{number}").open("w") as log:
            process = subprocess.Popen(
                [*NICE, sys.executable, "-m", "gateway", "engine"],
                cwd=ROOT,
                env=environment(settings),
                stdout=log,
                stderr=log,
            )
        self._stack.callback(end_process, process, STOP_TIMEOUT_S)
