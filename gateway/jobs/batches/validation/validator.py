"""Validates a job: checks each line of its input file, stores them all, and ranks them.

Lines are read, checked and stored in portions, so memory does not grow with the file. Validation by
a gateway that dies begins again at another one, a few times: each portion is stored only while the
job still belongs to this gateway, and a new owner first deletes what there is.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, MutableMapping
from contextlib import aclosing, closing
from functools import partial
from typing import Any, Final
from uuid import UUID

import structlog
from msgspec import Struct, field, to_builtins

from gateway.database.errors import LONG_TRANSACTION_S, Sessions, transaction
from gateway.errors import NotFound
from gateway.files.store import FileStore
from gateway.garbage import return_freed_memory
from gateway.generation.service import GenerationService
from gateway.jobs.batches.callers import read_callers
from gateway.jobs.batches.claims.attempts import ClaimedJob, JobAttempts
from gateway.jobs.batches.endpoint import Endpoints
from gateway.jobs.batches.limits import BatchLimits
from gateway.jobs.batches.lines import NewLine, delete_lines, insert_lines
from gateway.jobs.batches.validation.line_check import CheckedLine, LineCheck, LineProblem, ReadLine
from gateway.jobs.batches.validation.planning import JobPlanner, PlanInput, PreparedLine
from gateway.jobs.batches.validation.start import JobStart, own_job
from models import Batch

log = structlog.get_logger()

PORTION_LINES: Final = 500
PORTION_BYTES: Final = 8 << 20
CHECKED_AT_ONCE: Final = 16  # the predictor scores those that wait together
WORK: Final = "validation"
MAX_ATTEMPTS: Final = 5  # with the pauses in between, in a little more than a minute
MAX_PROBLEMS: Final = 100  # in a failed job's `errors`


class InvalidFile(Struct, frozen=True):
    """Why no line of a file can run."""

    problems: list[LineProblem]


class _Progress(Struct):
    """What has been seen of a file."""

    lines: int = 0
    valid: int = 0
    problems: list[LineProblem] = field(default_factory=list)


class BatchValidator:
    """Validates the jobs of one model."""

    def __init__(
        self,
        sessions: Sessions,
        files: FileStore,
        service: GenerationService,
        endpoints: Endpoints,
        planner: JobPlanner,
        limits: BatchLimits,
        owner: UUID,
        faults: MutableMapping[str, int],
        reranked: Callable[[UUID], None] = lambda _: None,
    ) -> None:
        """`faults` counts attempts that failed.

        `reranked` is called with each other job whose lines have been ranked again.
        """
        self._sessions = sessions
        self._files = files
        self._service = service
        self._endpoints = endpoints
        self._page_tokens = planner.page_tokens
        self._limits = limits
        self._owner = owner
        self._attempts = JobAttempts(sessions, owner, WORK, MAX_ATTEMPTS, faults)
        self._start = JobStart(sessions, planner, owner, reranked)

    async def claim(self) -> ClaimedJob | None:
        """The next job to validate, which is now this gateway's; None if none waits."""
        waits = Batch.status == "validating", Batch.model == self._service.model
        return await self._attempts.claim(*waits)

    async def validate(self, job: ClaimedJob) -> None:
        """Start a job, or fail it with the reasons, or leave it for another attempt.

        The error of an outage is raised: the job is still to be validated.
        """
        await self._attempts.run(job, partial(self._validate, job.id), partial(self._fail, job.id))

    async def _validate(self, batch_id: UUID) -> None:
        """Start a job, or fail it with the reasons. NotOurs."""
        batch = await self._take_over(batch_id)
        outcome = await self._read(batch)
        if isinstance(outcome, InvalidFile):
            await self._end(batch_id, outcome)
        await return_freed_memory()

    async def _read(self, batch: Batch) -> InvalidFile | None:
        """Store and rank every line, and start the job."""
        with closing(PlanInput(self._page_tokens)) as lines:
            return await self._read_into(lines, batch)

    async def _read_into(self, planned: PlanInput, batch: Batch) -> InvalidFile | None:
        seen = _Progress()
        async with transaction(self._sessions) as session:
            caller = (await read_callers(session, [batch.id]))[batch.id]
        check = LineCheck(
            batch.id,
            batch.endpoint,
            caller,
            self._endpoints[batch.endpoint],
            self._service,
            self._limits,
        )
        lines = self._files.open_lines(
            batch.tenant_id, batch.input_file_id, max_line_bytes=self._limits.line_bytes
        )
        try:
            async with aclosing(lines), aclosing(_portions(lines)) as portions:
                async for portion in portions:
                    seen.lines += len(portion)
                    if seen.lines > self._limits.lines:
                        reason = f"the file has more than {self._limits.lines} lines"
                        return InvalidFile([LineProblem("too_many_lines", seen.lines, reason)])
                    await self._store(batch, await _checked(check, portion), seen, planned)
        except NotFound as error:
            return InvalidFile([LineProblem("file_not_found", 0, error.message, "input_file_id")])
        if not seen.lines:
            return InvalidFile([LineProblem("empty_file", 0, "the input file has no lines")])
        if not seen.valid:
            return InvalidFile(seen.problems)
        await self._start.start(batch, seen.lines, planned, caller)
        return None

    async def _store(
        self, batch: Batch, lines: list[CheckedLine], seen: _Progress, planned: PlanInput
    ) -> None:
        """Insert a portion, and note what is needed to rank its lines."""
        rows: list[NewLine] = []
        valid = [
            PreparedLine(line.number, line.prepared.prompt, line.prepared.prediction)
            for line in lines
            if line.problem is None and line.prepared is not None
        ]
        seen.valid += len(valid)
        hashes = await planned.add(valid)
        for line in lines:
            if line.problem is not None or line.prepared is None:
                if line.problem is not None and len(seen.problems) < MAX_PROBLEMS:
                    seen.problems.append(line.problem)
                rows.append(
                    NewLine(number=line.number, custom_id=line.custom_id, result=line.result)
                )
                continue
            prepared = line.prepared
            rows.append(
                NewLine(
                    number=line.number,
                    custom_id=line.custom_id,
                    body=line.body,
                    prompt_tokens=len(prepared.prompt),
                    predicted_tokens=prepared.prediction.mean,
                    page_hashes=hashes[line.number],
                )
            )
        async with transaction(self._sessions) as session:
            await own_job(session, batch.id, self._owner)
            await insert_lines(session, batch.id, rows)

    async def _fail(self, batch_id: UUID, reason: str) -> None:
        """End the job: it cannot be validated. NotOurs."""
        await self._end(batch_id, InvalidFile([LineProblem("internal_error", 0, reason)]))

    async def _end(self, batch_id: UUID, invalid: InvalidFile) -> None:
        """End the job: nothing of it can run. NotOurs."""
        problems: list[Any] = to_builtins(invalid.problems)
        await self._attempts.end_failed(batch_id, ["validating"], problems)
        log.info("batch_failed", batch=str(batch_id), reason=problems[0]["code"])

    async def _take_over(self, batch_id: UUID) -> Batch:
        """The job, without the lines that an earlier attempt stored. NotOurs."""
        async with transaction(self._sessions, within_s=LONG_TRANSACTION_S) as session:
            batch = await own_job(session, batch_id, self._owner)
            await delete_lines(session, batch_id)
        return batch


async def _portions(lines: AsyncIterator[bytes]) -> AsyncGenerator[list[tuple[int, bytes]], None]:
    """Numbered lines, from 1; empty ones are counted and left out."""
    portion: list[tuple[int, bytes]] = []
    number = size = 0
    async for line in lines:
        number += 1
        if not line.strip():
            continue
        portion.append((number, line))
        size += len(line)
        if len(portion) >= PORTION_LINES or size >= PORTION_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion


async def _checked(check: LineCheck, portion: list[tuple[int, bytes]]) -> list[CheckedLine]:
    """The portion's lines checked, a few at the same time."""
    turns = asyncio.Semaphore(CHECKED_AT_ONCE)

    async def one(read: ReadLine) -> CheckedLine:
        async with turns:
            return await check.check(read)

    reads = [check.read(number, raw) for number, raw in portion]
    return await asyncio.gather(*map(one, reads))
