"""Ends jobs: cancelled and expired ones, and those whose lines have all ended.

A job's files are written from its lines, in their order, in the transaction that ends the job and
deletes the lines: they exist exactly if the job has ended.
"""

from collections.abc import AsyncGenerator, MutableMapping, Sequence
from functools import partial
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import LONG_TRANSACTION_S, Sessions, now_of, transaction
from gateway.files.store import FileOwner, FileStore
from gateway.jobs.batches.claims.attempts import (
    UNTRIED,
    ClaimedJob,
    JobAttempts,
    NotOurs,
    set_untried,
)
from gateway.jobs.batches.lines import delete_lines
from gateway.jobs.batches.output_lines import CANCELLED, EXPIRED, line_id, unanswered
from gateway.jobs.batches.portions import portions
from gateway.jobs.batches.states import CANCELLABLE, UNFINISHED, LineState
from models import Batch, BatchLine

log = structlog.get_logger()

PAGE_LINES: Final = 200
ENDING: Final = ("finalizing", "cancelling")
WORK: Final = "end"
MAX_ATTEMPTS: Final = (
    12  # with the pauses in between, in two and a half hours: answers are at stake
)
MESSAGES: Final = {
    LineState.CANCELLED: (CANCELLED, "the batch was cancelled before this line was done"),
    LineState.EXPIRED: (EXPIRED, "the batch's completion window ended before this line was done"),
}
OUTPUT: Final = "batch_output"


class BatchEnding:
    """Ends the jobs of one model."""

    def __init__(
        self,
        sessions: Sessions,
        files: FileStore,
        model: str,
        owner: UUID,
        faults: MutableMapping[str, int],
    ) -> None:
        """`faults` counts attempts that failed."""
        self._sessions = sessions
        self._files = files
        self._model = model
        self._owner = owner
        self._attempts = JobAttempts(sessions, owner, WORK, MAX_ATTEMPTS, faults)

    async def expire(self) -> int:
        """Begin to end the jobs whose window is over; returns their number."""
        over = update(Batch).where(
            Batch.status.in_(CANCELLABLE),
            Batch.model == self._model,
            Batch.expires_at <= func.now(),
        )
        changed = over.values(
            status="finalizing", outcome="expired", finalizing_at=func.now(), owner=None, **UNTRIED
        ).returning(Batch.id)
        async with transaction(self._sessions) as session:
            return len((await session.scalars(changed)).all())

    async def complete(self) -> int:
        """Begin to end the jobs whose lines have all ended; returns their number."""
        done = update(Batch).where(
            Batch.status == "in_progress",
            Batch.model == self._model,
            Batch.completed + Batch.failed >= Batch.total,
        )
        changed = done.values(
            status="finalizing", outcome="completed", finalizing_at=func.now(), **UNTRIED
        ).returning(Batch.id)
        async with transaction(self._sessions) as session:
            return len((await session.scalars(changed)).all())

    async def claim(self) -> ClaimedJob | None:
        """The next job whose files are to be written, which is now this gateway's; None if none."""
        return await self._attempts.claim(Batch.status.in_(ENDING), Batch.model == self._model)

    async def finish(self, job: ClaimedJob) -> None:
        """End a job: write its files and delete its lines, or leave it for another attempt.

        The error of an outage is raised: the job is still to be ended.
        """
        await self._attempts.run(job, partial(self._finish, job.id), partial(self._fail, job.id))

    async def _finish(self, batch_id: UUID) -> None:
        """End a job. NotOurs.

        Lines that wait or run end here, whichever gateway runs them: what they still give is not
        taken.
        """
        async with transaction(self._sessions, within_s=LONG_TRANSACTION_S) as session:
            found = select(Batch).where(Batch.id == batch_id, Batch.owner == self._owner)
            batch = await session.scalar(found.with_for_update())
            if batch is None:
                raise NotOurs("another gateway ends it")
            assert batch.outcome is not None, "a job that ends has an outcome"
            await _end_lines(session, batch)
            await _count(session, batch)
            batch.output_file_id = await self._write(
                session, batch, "output", [LineState.COMPLETED]
            )
            batch.error_file_id = await self._write(
                session, batch, "error", [LineState.FAILED, *MESSAGES]
            )
            await delete_lines(session, batch_id)
            batch.status, batch.owner = batch.outcome, None
            set_untried(batch)
            setattr(batch, f"{batch.outcome}_at", await now_of(session))
        log.info(
            "batch_ended",
            batch=str(batch_id),
            status=batch.status,
            completed=batch.completed,
            failed=batch.failed,
        )

    async def _fail(self, batch_id: UUID, reason: str) -> None:
        """End a job without files: they cannot be written. NotOurs."""
        problem = {"code": "internal_error", "line": 0, "message": reason, "param": None}
        await self._attempts.end_failed(
            batch_id, ENDING, [problem], completed=0, failed=Batch.total
        )
        log.error("batch_failed", batch=str(batch_id), reason=problem["code"])

    async def _write(
        self, session: AsyncSession, batch: Batch, kind: str, states: Sequence[LineState]
    ) -> UUID | None:
        """The file of the lines in these states, in the lines' order; None without lines."""
        writer = None
        async for line in _lines(session, batch.id, states):
            if writer is None:
                writer = await self._files.create(
                    session,
                    FileOwner(batch.tenant_id, batch.app_id, batch.api_key_id),
                    filename=f"batch_{batch.id.hex}_{kind}.jsonl",
                    purpose=OUTPUT,
                    expires_after_s=batch.output_expires_s,
                )
            await writer.write(_result(line))
        return None if writer is None else (await writer.finish()).id


async def _end_lines(session: AsyncSession, batch: Batch) -> None:
    """End the lines that wait or run as the job ends."""
    state = LineState.CANCELLED if batch.outcome == "cancelled" else LineState.EXPIRED
    ended = (
        update(BatchLine)
        .where(BatchLine.batch_id == batch.id, BatchLine.state.in_(UNFINISHED))
        .values(state=state, claimed_by=None)
    )
    await session.execute(ended)


async def _count(session: AsyncSession, batch: Batch) -> None:
    """Set the job's counts to what its files are going to have."""
    grouped = (
        select(BatchLine.state, func.count().label("lines"))
        .where(BatchLine.batch_id == batch.id)
        .group_by(BatchLine.state)
    )
    counts = {row.state: row.lines for row in await session.execute(grouped)}
    batch.total = sum(counts.values())
    batch.completed = counts.get(LineState.COMPLETED, 0)
    batch.failed = batch.total - batch.completed


async def _lines(
    session: AsyncSession, batch_id: UUID, states: Sequence[LineState]
) -> AsyncGenerator[Any, None]:
    """The lines in these states by number, a portion at a time."""
    after = 0
    of_job = BatchLine.batch_id == batch_id, BatchLine.state.in_(states)
    while True:
        sizes = await session.execute(
            select(BatchLine.number, func.coalesce(func.octet_length(BatchLine.result), 0))
            .where(*of_job, BatchLine.number > after)
            .order_by(BatchLine.number)
            .limit(PAGE_LINES)
        )
        page = [(number, size) for number, size in sizes]
        for portion in portions(page, lambda each: each[1]):
            lines = await session.execute(
                select(
                    BatchLine.batch_id,
                    BatchLine.number,
                    BatchLine.custom_id,
                    BatchLine.state,
                    BatchLine.result,
                )
                .where(*of_job, BatchLine.number.between(portion[0][0], portion[-1][0]))
                .order_by(BatchLine.number)
            )
            for line in lines.all():
                yield line
        if len(page) < PAGE_LINES:
            return
        after = page[-1][0]


def _result(line: Any) -> bytes:
    """A line of a file."""
    if line.result is not None:
        return bytes(line.result)
    code, message = MESSAGES[LineState(line.state)]
    return unanswered(line_id(line.batch_id, line.number), line.custom_id, code, message)
