"""Starts training runs as child processes and watches them, one at a time."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from typing import Final
from uuid import UUID

import structlog

from gateway.child_process import child_environment, end_child
from gateway.database.errors import Sessions
from gateway.errors import DatabaseLost
from gateway.prediction.features.embedder_model import EmbedderModel, packaged_embedder
from gateway.prediction.lifecycle.run_log import OPERATOR, RunLog, StartReason
from models import TrainingRun

log = structlog.get_logger()

COMMAND: Final = (
    sys.executable,
    "-m",
    "gateway.prediction.lifecycle.training_process",
    "--with-parent",
)
MAX_RUN_S: Final = 7200.0  # a run of millions of rows takes minutes
THREADS: Final = max(1, (os.cpu_count() or 1) // 2)  # the other cores are the engine's
ENVIRONMENT: Final = {  # read by libraries at import; a thread that waits sleeps
    "OMP_NUM_THREADS": str(THREADS),
    "OMP_WAIT_POLICY": "passive",
}


class TrainingRuns:
    """Training runs of the served model. A run ends with the gateway that started it.

    A run reads the embeddings of the `embedder`, by default the packaged one.
    """

    def __init__(
        self,
        sessions: Sessions,
        *,
        model: str,
        model_hash: str,
        database_url: str,
        embedder: EmbedderModel | None = None,
    ) -> None:
        self._log = RunLog(sessions)
        self.model = model
        self.model_hash = model_hash
        self._database_url = database_url
        self._embedder = embedder or packaged_embedder()
        self._process: Process | None = None
        self._run: UUID | None = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The id of the training process; None while there is none."""
        return self._process.pid if self._process is not None else None

    async def recover(self) -> None:
        """Mark open runs of crashed gateways as failed."""
        abandoned = await self._log.fail_abandoned(self.model)
        if abandoned:
            log.warning("training_runs_buried", runs=abandoned)

    async def start(
        self, by: str, *, activate: bool = True, reason: StartReason = OPERATOR
    ) -> TrainingRun:
        """Start a run and return its row, in state queued.

        Conflict while another is open, or if the reason is outdated.
        """
        await self.recover()
        run = await self._log.queue(self.model, by=by, activate=activate, reason=reason)
        try:
            process = await asyncio.create_subprocess_exec(
                *COMMAND,
                *("--run", str(run.id), "--model-hash", self.model_hash),
                *("--embedder", self._embedder.folder),
                stdin=PIPE,
                start_new_session=True,  # Ctrl-C is the gateway's to handle
                env=child_environment() | ENVIRONMENT | {"DATABASE_URL": self._database_url},
            )
        except OSError as error:
            await self._log.mark_failed(run.id, f"the training process did not start: {error}")
            raise
        self._process, self._run = process, run.id
        log.info("training_started", run=str(run.id), pid=process.pid, by=by)
        self._watcher = asyncio.create_task(self._watch(run.id, process), name="training watcher")
        return run

    async def cancel(self, run_id: UUID, by: str) -> TrainingRun:
        """Request that a run of any gateway be killed; returns its row at this moment.

        NotFound; Conflict if it has finished.
        """
        run = await self._log.cancel(run_id, by=by)
        await self.kill_if_cancelled()
        await self.recover()  # its gateway may have ended
        return run

    async def kill_if_cancelled(self) -> None:
        """Kill this gateway's run if its cancellation was requested."""
        process, run_id = self._process, self._run
        if process is not None and run_id is not None and await self._log.is_cancelled(run_id):
            log.info("training_cancelled", run=str(run_id))
            with suppress(ProcessLookupError):
                process.kill()

    async def finished(self) -> None:
        """Return once this gateway has no running training."""
        if self._watcher is not None:
            await asyncio.shield(self._watcher)

    async def close(self) -> None:
        """Stop a running training, which is then marked failed."""
        if self._process is not None:
            await end_child(self._process)
        await self.finished()

    async def _watch(self, run_id: UUID, process: Process) -> None:
        try:
            async with asyncio.timeout(MAX_RUN_S):
                code = await process.wait()
            reason = _reason(code)
        except TimeoutError:
            process.kill()
            code = await process.wait()
            reason = f"the training process took longer than {MAX_RUN_S:.0f} s"
        if self._process is process:  # the next run may have started
            self._process = self._run = None
        log.info("training_ended", run=str(run_id), code=code)
        try:
            await self._log.mark_failed(run_id, reason)  # no effect on a finished run
        except DatabaseLost as error:
            log.warning("training_end_not_recorded", run=str(run_id), reason=error.message)


def _reason(code: int) -> str:
    if code < 0:
        return f"the training process was killed by signal {-code}"
    return (
        f"the training process exited with code {code} before it finished; its log has the reason"
    )
