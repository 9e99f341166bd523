"""Validates a job: checks each line of its input file, stores them all, and ranks them.

Lines are read, checked and stored in portions, so memory does not grow with the file. Validation by
a gateway that dies begins again at another one: each portion is stored only while the job still
belongs to this gateway, and a new owner first deletes what there is.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, closing
from typing import Any, Final
from uuid import UUID

import structlog
from msgspec import Struct, field, to_builtins
from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError

from gateway.database.errors import LONG_TRANSACTION_S, Sessions, now_of, transaction
from gateway.errors import LmaasError, NotFound
from gateway.files.store import FileStore
from gateway.garbage import return_freed_memory
from gateway.generation.service import GenerationService
from gateway.jobs.batches.callers import read_callers
from gateway.jobs.batches.endpoint import Endpoints
from gateway.jobs.batches.limits import BatchLimits
from gateway.jobs.batches.lines import NewLine, delete_lines, insert_lines
from gateway.jobs.batches.validation.line_check import CheckedLine, LineCheck, LineProblem, ReadLine
from gateway.jobs.batches.validation.planning import JobPlanner, PlanInput, PreparedLine
from gateway.jobs.batches.validation.start import JobStart, NotOurs, own_job
from models import Batch

log = structlog.get_logger()

PORTION_LINES: Final = 500
PORTION_BYTES: Final = 8 << 20
CHECKED_AT_ONCE: Final = 16  # the predictor scores those that wait together
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
        reranked: Callable[[UUID], None] = lambda _: None,
    ) -> None:
        """`reranked` is called with each other job whose lines have been ranked again."""
        self._sessions = sessions
        self._files = files
        self._service = service
        self._endpoints = endpoints
        self._page_tokens = planner.page_tokens
        self._limits = limits
        self._owner = owner
        self._start = JobStart(sessions, planner, owner, reranked)

    async def claim(self) -> Batch | None:
        """The oldest job that waits to be validated, which is now this gateway's; None if none."""
        waiting = (
            select(Batch)
            .where(
                Batch.status == "validating",
                Batch.model == self._service.model,
                Batch.owner.is_(None),
            )
            .order_by(Batch.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        async with transaction(self._sessions) as session:
            batch = await session.scalar(waiting)
            if batch is not None:
                batch.owner = self._owner
        return batch

    async def validate(self, batch: Batch) -> None:
        """Start a job, or fail it with the reasons. DatabaseLost: it is still to be validated."""
        try:
            await self._clear(batch)
            outcome = await self._read(batch)
            if isinstance(outcome, InvalidFile):
                await self._fail(batch, outcome)
            await return_freed_memory()
        except NotOurs as error:
            log.info("batch_validation_left", batch=str(batch.id), reason=str(error))
        except (LmaasError, SQLAlchemyError, OSError):
            raise
        except Exception:
            log.exception("batch_validation_crashed", batch=str(batch.id))
            reason = "internal error; the server has logged it"
            await self._fail(batch, InvalidFile([LineProblem("internal_error", 0, reason)]))

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
            await own_job(session, batch, self._owner)
            await insert_lines(session, batch.id, rows)

    async def _fail(self, batch: Batch, invalid: InvalidFile) -> None:
        """End the job: nothing of it can run."""
        problems: list[Any] = to_builtins(invalid.problems)
        async with transaction(self._sessions) as session:
            owned = await own_job(session, batch, self._owner)
            await delete_lines(session, batch.id)
            owned.status, owned.owner, owned.errors = "failed", None, problems
            owned.failed_at = await now_of(session)
        log.info("batch_failed", batch=str(batch.id), reason=problems[0]["code"])

    async def _clear(self, batch: Batch) -> None:
        """Delete the lines that an earlier owner stored."""
        async with transaction(self._sessions, within_s=LONG_TRANSACTION_S) as session:
            await own_job(session, batch, self._owner)
            await delete_lines(session, batch.id)

    async def give_back(self, batch: Batch) -> None:
        """Leave a job that could not be validated now to whichever gateway is next."""
        freed = update(Batch).where(Batch.id == batch.id, Batch.owner == self._owner)
        async with transaction(self._sessions) as session:
            await session.execute(freed.values(owner=None))


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
