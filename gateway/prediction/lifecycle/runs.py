"""Training runs as the gateway starts them: one process at a time, watched to its end."""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from typing import Final
from uuid import UUID

import structlog

from gateway.child_process import child_environment, end_child
from gateway.database.errors import Sessions
from gateway.errors import DatabaseLost
from gateway.prediction.lifecycle.run_log import OPERATOR, RunLog, StartReason
from models import TrainingRun

log = structlog.get_logger()

COMMAND: Final = (
    sys.executable,
    "-m",
    "gateway.prediction.lifecycle.training_process",
    "--with-parent",
)


class TrainingRuns:
    """Starts training runs of the served model. A run ends with the gateway that started it."""

    def __init__(
        self, sessions: Sessions, *, model: str, model_hash: str, database_url: str
    ) -> None:
        self._log = RunLog(sessions)
        self.model = model
        self.model_hash = model_hash
        self._database_url = database_url
        self._process: Process | None = None
        self._run: UUID | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The id of the process at work; None while there is none."""
        return self._process.pid if self._process is not None else None

    async def recover(self) -> None:
        """Mark runs as failed that a crashed gateway left open."""
        buried = await self._log.bury(self.model)
        if buried:
            log.warning("training_runs_buried", runs=buried)

    async def start(
        self, by: str, *, activate: bool = True, reason: StartReason = OPERATOR
    ) -> TrainingRun:
        """Start a run and return its row, still queued.

        Conflict while another is open, or where the reason holds no more.
        """
        await self.recover()
        run = await self._log.queue(self.model, by=by, activate=activate, reason=reason)
        try:
            process = await asyncio.create_subprocess_exec(
                *COMMAND,
                *("--run", str(run.id), "--model-hash", self.model_hash),
                stdin=PIPE,
                start_new_session=True,  # Ctrl-C is the gateway's to handle
                env=child_environment() | {"DATABASE_URL": self._database_url},
            )
        except OSError as error:
            await self._log.failed(run.id, f"the training process did not start: {error}")
            raise
        self._process, self._run = process, run.id
        log.info("training_started", run=str(run.id), pid=process.pid, by=by)
        self._watcher = asyncio.create_task(self._watch(run.id, process), name="training watcher")
        return run

    async def cancel(self, run_id: UUID, by: str) -> TrainingRun:
        """Have a run killed, whichever gateway it is of; the row as it is at this moment.

        NotFound; Conflict if it is finished.
        """
        run = await self._log.cancel(run_id, by=by)
        await self.obey()
        await self.recover()  # its gateway may be gone
        return run

    async def obey(self) -> None:
        """Kill the run at work here if somebody asked for its end."""
        process, run_id = self._process, self._run
        if process is not None and run_id is not None and await self._log.cancelled(run_id):
            log.info("training_cancelled", run=str(run_id))
            with suppress(ProcessLookupError):
                process.kill()

    async def finished(self) -> None:
        """Return once no run of this gateway is at work."""
        if self._watcher is not None:
            await asyncio.shield(self._watcher)

    async def close(self) -> None:
        """Stop the run at work, which is then marked failed."""
        if self._process is not None:
            await end_child(self._process)
        await self.finished()

    async def _watch(self, run_id: UUID, process: Process) -> None:
        code = await process.wait()
        if self._process is process:  # a next run may have begun
            self._process = self._run = None
        log.info("training_ended", run=str(run_id), code=code)
        try:
            await self._log.failed(run_id, _reason(code))  # no effect on one that is finished
        except DatabaseLost as error:
            log.warning("training_end_not_recorded", run=str(run_id), reason=error.message)


def _reason(code: int) -> str:
    if code < 0:
        return f"the training process was killed by signal {-code}"
    return f"the training process ended with code {code} before it was done; its log says more"
