"""Starts the engine process, restarts it when it dies or falls silent, and stops it at the end."""

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

from engine.silence import BEAT_S, Silence
from gateway.engines.http_connection import HttpConnection
from gateway.errors import StartupFailure
from gateway.settings import without_secrets

MAX_SOCKET_PATH_BYTES: Final = 100  # the kernel takes 107 bytes
CONFIGURATION_EXIT: Final = 2  # exit code: the engine cannot start with this configuration
MIN_STABLE_S: Final = 30.0  # after a longer run the restart backoff begins at 0
MAX_BACKOFF_S: Final = 10.0
STOP_TIMEOUT_S: Final = 12.0  # the engine completes its step first
SILENCE_S: Final = 15.0
START_S: Final = 600.0
NICENESS: Final = 5
LOG_TAIL_BYTES: Final = 4096

log = structlog.get_logger()


def socket_path(data_dir: Path) -> Path:
    """The engine's socket: in the data folder, or a short temporary path if that is too long."""
    path = data_dir / "engine.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
        return path
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"lmaas-{name}.sock"


class EngineSupervisor:
    """Keeps one engine process alive. The process exits when the gateway's end of its stdin closes.

    A process that serves and then gives no sign of life for `silence_s`, or does not serve within
    `start_s`, is killed. Set `proven` once it has answered: its configuration is valid, so it is
    always restarted.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        log_file: Path,
        *,
        silence_s: float = SILENCE_S,
        start_s: float = START_S,
    ) -> None:
        self._silence_s = silence_s
        self._start_s = start_s
        self._environment = dict(environment)
        self._log_file = log_file
        self.socket = self._environment["LMAAS_ENGINE_SOCKET"]
        self._process: Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._log_start = 0  # size of the log when the process was started
        self.restarts = 0
        self.proven = False
        self.serving = False  # the newest process has answered that it serves

    @property
    def pid(self) -> int | None:
        """The process id of the running engine."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Spawn the engine; it answers on its socket when the model is loaded."""
        self._process = await self._spawn()
        self._watch = asyncio.create_task(self._keep_alive())

    @property
    def reason(self) -> str:
        """The last line of the engine's log."""
        return self._last_line()

    async def failed(self) -> StartupFailure:
        """Wait until the engine failed for good; returns the reason."""
        assert self._watch is not None
        await asyncio.wait([self._watch])
        return StartupFailure(f"the engine did not start: {self._last_line()}")

    async def stop(self) -> None:
        """Terminate the engine; kill it after `STOP_TIMEOUT_S`."""
        if self._watch:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        if self._process and self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    async def _spawn(self) -> Process:
        with self._log_file.open("ab") as output:
            self._log_start = self._log_file.stat().st_size
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
        # On the CPU the model must not starve the gateway and the predictor.
        os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
        return process

    async def _keep_alive(self) -> None:
        backoff = 0.0
        while self._process is not None:
            began = time.monotonic()
            code = await self._end_of(self._process)
            if code == CONFIGURATION_EXIT and not self.proven:
                log.error("engine_unable", reason=self._last_line())
                return
            backoff = (
                0.0
                if time.monotonic() - began > MIN_STABLE_S
                else min(MAX_BACKOFF_S, 2 * backoff + 0.2)
            )
            self.restarts += 1
            log.warning("engine_died", code=code, restarts=self.restarts, backoff_s=backoff)
            await asyncio.sleep(backoff)
            self._process = await self._respawn()

    async def _end_of(self, process: Process) -> int:
        """The exit code of a process, which is killed once it is silent."""
        watch = asyncio.create_task(self._kill_silent(process), name="engine heartbeat")
        try:
            return await process.wait()
        finally:
            watch.cancel()
            self.serving = False

    async def _kill_silent(self, process: Process) -> None:
        """Ask the process for a sign of life at each beat; kill it after too many without one."""
        silence = Silence(self._silence_s, self._start_s)
        async with HttpConnection(self.socket, BEAT_S) as connection:
            while not silence.too_long:
                await asyncio.sleep(BEAT_S)
                silence.beat(await _status(connection))
                self.serving = silence.serving
        log.warning(
            "engine_silent", pid=process.pid, beats=silence.missed, starting=silence.starting
        )
        process.kill()

    async def _respawn(self) -> Process:
        """Spawn the next process, retrying while the operating system refuses."""
        while True:
            try:
                return await self._spawn()
            except OSError as error:
                log.error("engine_not_started", reason=str(error), retry_s=MAX_BACKOFF_S)
                await asyncio.sleep(MAX_BACKOFF_S)

    def _last_line(self) -> str:
        lines = self._tail()
        return lines[-1] if lines else "its log is empty"

    def _tail(self) -> list[str]:
        """The last lines that the newest process has logged."""
        if not self._log_file.exists():  # nothing was started yet
            return []
        with self._log_file.open("rb") as output:
            size = output.seek(0, os.SEEK_END)
            output.seek(max(self._log_start, size - LOG_TAIL_BYTES))
            return output.read().decode(errors="replace").strip().splitlines()


async def _status(connection: HttpConnection) -> int | None:
    """The status of the engine's health; None if it does not answer."""
    try:
        response = await connection.request("GET", "/health")
        await response.content()
    except OSError:
        connection.close()
        return None
    return response.status
