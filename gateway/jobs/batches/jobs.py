"""The batch jobs of one gateway: validates them, runs their lines, and ends them."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog
from msgspec import Struct
from sqlalchemy.exc import SQLAlchemyError

from gateway.database.errors import Sessions
from gateway.database.repetition import repeat
from gateway.errors import LmaasError
from gateway.files.store import FileStore
from gateway.generation.request_state import RequestState
from gateway.generation.service import GenerationService
from gateway.jobs.batches.batches import Batches
from gateway.jobs.batches.claims.lease import LEASE_S, Lease
from gateway.jobs.batches.correction import JobCorrections
from gateway.jobs.batches.ending import BatchEnding
from gateway.jobs.batches.endpoint import Endpoints
from gateway.jobs.batches.limits import BatchLimits
from gateway.jobs.batches.progress.ended_jobs import Calibrations
from gateway.jobs.batches.progress.samples import note_progress
from gateway.jobs.batches.source import BatchLines, batch_of
from gateway.jobs.batches.validation.planning import JobPlanner
from gateway.jobs.batches.validation.validator import BatchValidator
from gateway.jobs.runner import JobRunner
from models.base import new_id

log = structlog.get_logger()

WORK: Final = ("validation", "line", "order", "progress", "end")
POLL_S: Final = 2.0  # for what other gateways change; own changes wake at once
RETRY_S: Final = 1.0
MAX_ENDED: Final = 8  # jobs of a turn: the rest may go to another gateway
CLOSE_S: Final = 5.0  # to give lines back; what is not is freed when the lease ends


class BatchOptions(Struct, frozen=True, kw_only=True):
    """Bounds, and what the engine does with prefixes."""

    limits: BatchLimits = BatchLimits()
    page_tokens: int = 16
    prefix_sharing: bool = True
    lease_s: float = LEASE_S


class BatchJobs:
    """The jobs of the served model. The API's routes call `batches` and `calibrations`.

    `faults` are counts of work that failed though nothing was away, by the kind of work.
    """

    def __init__(
        self,
        sessions: Sessions,
        files: FileStore,
        service: GenerationService,
        endpoints: Endpoints,
        options: BatchOptions,
        owner: UUID | None = None,
    ) -> None:
        self.owner = owner or new_id()
        self.faults = dict.fromkeys(WORK, 0)
        self.files = files
        self.batches = Batches(sessions, service.model, options.limits, self.wake)
        self.calibrations = Calibrations(sessions, service.model)
        self.lease = Lease(sessions, self.owner, lease_s=options.lease_s)
        self.corrections = JobCorrections(sessions, self._running, self.faults)
        self.validator = BatchValidator(
            sessions,
            files,
            service,
            endpoints,
            JobPlanner(options.page_tokens, sharing=options.prefix_sharing),
            options.limits,
            self.owner,
            self.faults,
            self.corrections.reranked,
        )
        self.ending = BatchEnding(sessions, files, service.model, self.owner, self.faults)
        lines = BatchLines(
            sessions, service, endpoints, self.owner, self.faults, self.corrections.observe
        )
        self.runner = JobRunner(lines, service, self.faults, self.wake)
        self._sessions = sessions
        self._model = service.model
        self._woken = [asyncio.Event(), asyncio.Event()]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, owner_file: Path | None = None) -> None:
        """Start to work on jobs.

        `owner_file` keeps the lease's id for the next gateway of the same data folder, which then
        need not wait until the lease of this one ends. DatabaseLost.
        """
        if owner_file is not None:
            predecessor = await asyncio.to_thread(_read_id, owner_file)
            if predecessor is not None:
                await self.lease.succeed(predecessor)
            await asyncio.to_thread(owner_file.write_text, self.owner.hex)
        for name, act, pause_s, woken in (
            ("batch lease", self.keep_lease, self.lease.renewal_s, None),
            ("batch ends", self.end_jobs, POLL_S, self._woken[0]),
            ("batch validation", self.validate_jobs, POLL_S, self._woken[1]),
            ("batch order", self.corrections.apply, POLL_S, None),
        ):
            work = repeat(act, pause_s, woken, delayed="batch_work_delayed", retry_s=RETRY_S)
            self._tasks.append(asyncio.create_task(work, name=name))
        self.runner.start()

    def stop_claiming(self) -> None:
        """Start no further line; those that run may finish."""
        self.runner.stop_claiming()

    async def drain(self, within_s: float) -> None:
        """Wait for the lines that run, this long at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.runner.wait_for_running()

    async def close(self) -> None:
        """Stop, and leave the lines that have not ended to other gateways."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(CLOSE_S):
                await self.runner.close()
                await self.lease.release()
        except (LmaasError, SQLAlchemyError, OSError) as error:  # TimeoutError is an OSError
            log.warning("batch_lines_kept", reason=repr(error))

    def wake(self) -> None:
        """Look at the jobs soon: one has changed."""
        for event in self._woken:
            event.set()
        self.runner.wake()

    async def keep_lease(self) -> None:
        """Prolong the lease, and stop the lines that are not this gateway's any more."""
        await self.lease.renew()
        await self.runner.drop_lost()

    async def end_jobs(self) -> None:
        """Free what dead gateways left, and end what is to be ended."""
        if await self.lease.free_dead():
            self.wake()
        await self.ending.expire()
        await self.ending.complete()
        for _ in range(MAX_ENDED):
            if (job := await self.ending.claim()) is None:
                break
            await self.ending.finish(job)
            await self.runner.drop_lost()
        await note_progress(self._sessions, self._model, self.faults)

    def _running(self, batch_id: UUID) -> Iterator[RequestState]:
        """The lines of a job that run here."""
        for line, state in self.runner.running():
            if batch_of(line) == batch_id:
                yield state

    async def validate_jobs(self) -> None:
        """Validate the jobs that wait for it."""
        while (job := await self.validator.claim()) is not None:
            await self.validator.validate(job)
            self.wake()


def _read_id(file: Path) -> UUID | None:
    """The id in a file; None if there is none, as after a cut-off write."""
    try:
        return UUID(file.read_text())
    except (OSError, ValueError):
        return None
