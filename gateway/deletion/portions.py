"""What a deleted tenant or app leaves, erased a portion at a time."""

from typing import Any, Final

from sqlalchemy import ColumnElement, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.files.store import DELETED
from gateway.jobs.batches.claims.attempts import UNTRIED
from gateway.jobs.batches.states import CANCELLABLE, OPEN
from gateway.prediction.lifecycle.erasure import BEGINNING, erase_portion
from models import Batch, Erasure, StoredFile

LINES: Final = 1_000  # of a job, deleted in a transaction
ROWS: Final = 2_000  # of history, erased in a transaction

_DELETE_LINES: Final = text("""
    DELETE FROM batch_lines WHERE batch_id = :batch AND number IN (
        SELECT number FROM batch_lines WHERE batch_id = :batch ORDER BY number LIMIT :lines
    )
    RETURNING number
""")


async def erase_batches(session: AsyncSession, erasure: Erasure) -> bool:
    """Stop the jobs of an app, or erase some lines of a tenant's; whether there was anything to do.

    What a gateway has locked, since it writes the job's files, is left out. The jobs of an app
    become the tenant's as if the app had cancelled them.
    """
    if erasure.app_id is not None:
        cancelling = {"status": "cancelling", "cancelling_at": func.now()}
        erasure.batches += (stopped := await _stop(session, _stoppable(erasure), cancelling))
        return stopped > 0
    await _stop(session, _stoppable(erasure), {"status": "cancelled", "cancelled_at": func.now()})
    found = select(Batch).where(Batch.tenant_id == erasure.tenant_id).order_by(Batch.id).limit(1)
    batch = await session.scalar(found.with_for_update(skip_locked=True))
    if batch is None:
        return False
    given = {"batch": batch.id, "lines": LINES}
    if len((await session.execute(_DELETE_LINES, given)).all()) < LINES:
        await session.delete(batch)
        erasure.batches += 1
    return True


async def batches_left(session: AsyncSession, erasure: Erasure) -> bool:
    """Whether there are jobs that were locked."""
    left = _stoppable(erasure) if erasure.app_id else [Batch.tenant_id == erasure.tenant_id]
    return await session.scalar(select(Batch.id).where(*left).limit(1)) is not None


async def erase_files(session: AsyncSession, erasure: Erasure) -> bool:
    """Mark all files of a tenant deleted, for the sweeper of files; whether there was one."""
    if erasure.app_id is not None:
        return False
    marked = (
        update(StoredFile)
        .where(StoredFile.tenant_id == erasure.tenant_id, StoredFile.state != DELETED)
        .values(state=DELETED, expires_at=func.now())
        .returning(StoredFile.id)
        .execution_options(synchronize_session=False)
    )
    files = len((await session.scalars(marked)).all())
    erasure.files += files
    return files > 0


async def erase_rows(session: AsyncSession, erasure: Erasure) -> bool:
    """Erase the next rows of history; whether there was one."""
    after = BEGINNING
    if erasure.reached_at is not None and erasure.reached_id is not None:
        after = erasure.reached_at, erasure.reached_id
    erased = await erase_portion(
        session, erasure.tenant_id, after, app_id=erasure.app_id, rows=ROWS
    )
    if not erased:
        return False
    erasure.rows += len(erased)
    erasure.reached_at, erasure.reached_id = erased[-1].arrived_at, erased[-1].id
    return True


def _stoppable(erasure: Erasure) -> list[ColumnElement[bool]]:
    """The conditions for the jobs that are to be stopped."""
    if erasure.app_id is not None:
        return [Batch.app_id == erasure.app_id, Batch.status.in_(CANCELLABLE)]
    return [Batch.tenant_id == erasure.tenant_id, Batch.status.in_(OPEN)]


async def _stop(
    session: AsyncSession, jobs: list[ColumnElement[bool]], stopped: dict[str, Any]
) -> int:
    """Take jobs that are not locked from their gateways; how many."""
    unlocked = select(Batch.id).where(*jobs).with_for_update(skip_locked=True)
    taken = (
        update(Batch)
        .where(Batch.id.in_(unlocked))
        .values(outcome="cancelled", owner=None, **stopped, **UNTRIED)
        .returning(Batch.id)
        .execution_options(synchronize_session=False)
    )
    return len((await session.scalars(taken)).all())
