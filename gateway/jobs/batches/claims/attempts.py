"""Claims jobs for work that may fail: each attempt is counted, and later than the one before.

A claim counts before the work begins, so that work which ends its gateway counts too. What cannot
succeed now, because the database or the engine is away or the disk is full, counts as no attempt.
"""

import asyncio
import errno
from collections.abc import Awaitable, Callable, Collection, MutableMapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeAlias
from uuid import UUID

import structlog
from msgspec import Struct
from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import aliased

from gateway.database.errors import LONG_TRANSACTION_S, Sessions, transaction
from gateway.database.translation import is_lost
from gateway.errors import LmaasError, OverLimit, Unavailable
from gateway.jobs.batches.lines import delete_lines
from models import Batch

FIRST_PAUSE_S: Final = 5.0  # after the first attempt; doubled with each
MAX_PAUSE_S: Final = 3_600.0
OUTAGE_PAUSE_S: Final = 2.0  # in which other jobs have their turn
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})
UNTRIED: Final[dict[str, Any]] = {"attempts": 0, "retry_at": None}  # of work that is to be begun

Act: TypeAlias = Callable[[], Awaitable[None]]

log = structlog.get_logger()


class NotOurs(Exception):
    """The job was cancelled, expired, or belongs to another gateway now."""


class ClaimedJob(Struct, frozen=True):
    """A job that is this gateway's, in this attempt of the work on it, from 1."""

    id: UUID
    attempt: int


class JobAttempts:
    """One gateway's attempts of one kind of work on jobs, `most` of each job."""

    def __init__(
        self,
        sessions: Sessions,
        owner: UUID,
        work: str,
        most: int,
        faults: MutableMapping[str, int],
    ) -> None:
        """`faults` counts the attempts that failed, under the name of the `work`."""
        self._sessions = sessions
        self._owner = owner
        self._work = work
        self._most = most
        self._faults = faults

    async def claim(self, *wanted: ColumnElement[bool]) -> ClaimedJob | None:
        """The next job of those that are wanted, which is now this gateway's; None if none waits.

        Those of tenants with fewer jobs in progress come first, so that many of one tenant do not
        hold up another's; then those that were never tried, and those whose next attempt was due
        first. One that this gateway has already is returned again, as the same attempt: the
        database was lost before it could be given back. No column of its content is read, so none
        hinders a claim.
        """
        of_tenant = aliased(Batch)
        in_progress = (
            select(func.count())
            .where(of_tenant.tenant_id == Batch.tenant_id, of_tenant.status == "in_progress")
            .scalar_subquery()
        )
        due = or_(Batch.retry_at.is_(None), Batch.retry_at <= func.now())
        waiting = (
            select(Batch.id, Batch.owner, Batch.attempts)
            .where(*wanted, or_(Batch.owner == self._owner, and_(Batch.owner.is_(None), due)))
            .order_by(in_progress, func.coalesce(Batch.retry_at, Batch.created_at), Batch.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        async with transaction(self._sessions) as session:
            found = (await session.execute(waiting)).one_or_none()
            if found is None:
                return None
            attempt = found.attempts + (found.owner is None)
            taken = update(Batch).where(Batch.id == found.id)
            await session.execute(
                taken.values(owner=self._owner, attempts=attempt, retry_at=_after(pause_s(attempt)))
            )
        return ClaimedJob(found.id, attempt)

    async def run(self, job: ClaimedJob, act: Act, fail: Callable[[str], Awaitable[None]]) -> None:
        """Do the work on a claimed job; `fail` ends the job for a reason after the last attempt.

        A job that was cancelled, expired or freed meanwhile is left, by NotOurs. The error of an
        outage is raised, and the job is given back.
        """
        if job.attempt <= self._most:
            fault = await self._fault(job, act)
            if fault is None:
                return
            if job.attempt < self._most:
                await self._defer(job)
                return
            reason = f"the gateway failed {job.attempt} times, the last time with {fault}"
        else:
            reason = f"the gateway ended {self._most} times while it worked on the batch"
        if await self._fault(job, partial(fail, f"internal error: {reason}; it has logged why")):
            await self._defer(job)

    async def end_failed(
        self, job_id: UUID, states: Collection[str], problems: Sequence[Any], **columns: Any
    ) -> None:
        """End a job that is this gateway's, in one of these states, as failed; its lines go.

        `problems` are its errors, `columns` what else changes. NotOurs.
        """
        failed = (
            update(Batch)
            .where(Batch.id == job_id, Batch.status.in_(states), Batch.owner == self._owner)
            .values(status="failed", owner=None, errors=problems, failed_at=func.now(), **UNTRIED)
            .values(**columns)
            .returning(Batch.id)
        )
        async with transaction(self._sessions, within_s=LONG_TRANSACTION_S) as session:
            if await session.scalar(failed) is None:
                raise NotOurs("it was cancelled, expired or freed")
            await delete_lines(session, job_id)

    async def _fault(self, job: ClaimedJob, act: Act) -> str | None:
        """The kind of error that the work failed with; None if it succeeded or was not ours."""
        try:
            await act()
        except NotOurs as error:
            log.info("batch_left", batch=str(job.id), work=self._work, reason=str(error))
        except Exception as error:
            if is_outage(error):
                await self._give_back(job, _after(OUTAGE_PAUSE_S))
                raise
            self._faults[self._work] += 1
            log.exception(
                "batch_attempt_failed",
                batch=str(job.id),
                work=self._work,
                attempt=job.attempt,
                of=self._most,
            )
            return type(error).__name__
        except BaseException:  # the gateway stops
            await asyncio.shield(self._give_back(job, None))
            raise
        return None

    async def _defer(self, job: ClaimedJob) -> None:
        """Leave the job to whichever gateway is next, after a pause."""
        async with transaction(self._sessions) as session:
            await session.execute(
                self._ours(job).values(owner=None, retry_at=_after(pause_s(job.attempt)))
            )

    async def _give_back(self, job: ClaimedJob, retry_at: ColumnElement[Any] | None) -> None:
        """Leave the job to whichever gateway is next: this was no attempt."""
        given = self._ours(job).values(owner=None, attempts=job.attempt - 1, retry_at=retry_at)
        with suppress(LmaasError, SQLAlchemyError):  # it stays ours, and is claimed again
            async with transaction(self._sessions) as session:
                await session.execute(given)

    def _ours(self, job: ClaimedJob) -> Any:
        return update(Batch).where(Batch.id == job.id, Batch.owner == self._owner)


def set_untried(batch: Batch) -> None:
    """Other work on the job is to be begun."""
    for name, value in UNTRIED.items():
        setattr(batch, name, value)


def is_outage(error: Exception) -> bool:
    """Whether the same work can succeed later: database, engine or disk take nothing now."""
    if isinstance(error, SQLAlchemyError):
        return is_lost(error)
    if isinstance(error, OSError):
        return error.errno in FULL
    return isinstance(error, OverLimit | Unavailable)


def pause_s(attempt: int) -> float:
    """The time from an attempt to the next one."""
    return min(FIRST_PAUSE_S * 2.0 ** min(attempt - 1, 16), MAX_PAUSE_S)


def _after(seconds: float) -> ColumnElement[Any]:
    return func.now() + timedelta(seconds=seconds)
