"""Starts the engine process, starts it again when it dies, and ends it with the gateway."""

import asyncio
import hashlib
import os
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from gateway.errors import StartupFailure
from gateway.settings import without_secrets

SOCKET_PATH_LIMIT: Final = 100  # the kernel takes 107 bytes
CONFIGURATION_EXIT: Final = 2  # the engine says that it can never start like this
STABLE_S: Final = 30.0
LONGEST_BACKOFF_S: Final = 10.0
STOP_S: Final = 12.0  # the engine ends its last step first
NICENESS: Final = 5

log = structlog.get_logger()


def socket_path(data_dir: Path) -> Path:
    """Where the engine listens: in the data folder, or in a short path where that is too long."""
    path = data_dir / "engine.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
        return path
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"lmaas-{name}.sock"


class EngineSupervisor:
    """Keeps one engine process alive. The process ends when our end of its stdin closes.

    Set `proven` once it answered: then its configuration is right, and it is always tried again.
    """

    def __init__(self, environment: Mapping[str, str], log_file: Path) -> None:
        self._environment = dict(environment)
        self._log_file = log_file
        self.socket = self._environment["LMAAS_ENGINE_SOCKET"]
        self._process: Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self.restarts = 0
        self.proven = False

    @property
    def pid(self) -> int | None:
        """The process id of the engine now running."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Spawn the engine; it answers on its socket when the model is loaded."""
        self._process = await self._spawn()
        self._watch = asyncio.create_task(self._keep_alive())

    async def failed(self) -> StartupFailure:
        """Waits until the engine has given up for good, and says why."""
        assert self._watch is not None
        await asyncio.wait([self._watch])
        return StartupFailure(f"the engine did not start: {self._last_line()}")

    async def stop(self) -> None:
        """End the engine, kindly first."""
        if self._watch:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        if self._process and self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(STOP_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    async def _spawn(self) -> Process:
        with self._log_file.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "engine",
                "--supervised",
                stdin=PIPE,
                stdout=output,
                stderr=output,
                env={**without_secrets(os.environ), **self._environment},
                start_new_session=True,  # Ctrl-C reaches the gateway alone, which drains first
            )
        # Where the model runs on the CPU, it must not starve the gateway and the predictor.
        os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        return process

    async def _keep_alive(self) -> None:
        backoff = 0.0
        while self._process is not None:
            began = time.monotonic()
            code = await self._process.wait()
            if code == CONFIGURATION_EXIT and not self.proven:
                log.error("engine_unable", reason=self._last_line())
                return
            backoff = (
                0.0
                if time.monotonic() - began > STABLE_S
                else min(LONGEST_BACKOFF_S, 2 * backoff + 0.2)
            )
            self.restarts += 1
            log.warning("engine_died", code=code, restarts=self.restarts, backoff_s=backoff)
            await asyncio.sleep(backoff)
            self._process = await self._respawn()

    async def _respawn(self) -> Process:
        """The next process, as soon as the machine has room for one."""
        while True:
            try:
                return await self._spawn()
            except OSError as error:
                log.error("engine_not_started", reason=str(error), retry_s=LONGEST_BACKOFF_S)
                await asyncio.sleep(LONGEST_BACKOFF_S)

    def _last_line(self) -> str:
        with self._log_file.open("rb") as output:
            output.seek(max(0, self._log_file.stat().st_size - 4096))
            lines = output.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
