"""Erases what deleted tenants and apps leave, in small transactions, whatever gateway deleted them.

What is done is in the database: after a kill, this or another gateway goes on.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import LONG_TRANSACTION_S, Sessions, transaction
from gateway.database.repetition import repeat
from gateway.deletion.portions import batches_left, erase_batches, erase_files, erase_rows
from gateway.errors import DatabaseLost
from gateway.history.audit import note
from gateway.prediction.lifecycle.erasure import delete_unused_instructions
from gateway.prediction.lifecycle.registry import Registry
from gateway.prediction.lifecycle.run_log import OPEN_STATES
from models import App, Erasure, TrainingRun

INTERVAL_S: Final = 60.0
PAUSE_S: Final = 0.02  # between two transactions, for others
MAX_RUN: Final = timedelta(days=1)  # a training run that is older has been abandoned

log = structlog.get_logger(__name__)


class ErasureSweeper:
    """Erases once a minute, and soon after `wake`. `files_marked`: the sweeper of files has work.

    Each erasure is locked in each transaction, so gateways never work on the same one.
    """

    def __init__(self, sessions: Sessions, files_marked: Callable[[], None]) -> None:
        self._sessions = sessions
        self._files_marked = files_marked
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to erase."""
        work = repeat(self._turn, INTERVAL_S, self._woken, delayed="erasure_delayed")
        self._task = asyncio.create_task(work, name="erasure sweeper")

    async def close(self) -> None:
        """Stop; what is left is erased by another gateway or after the next start."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def wake(self) -> None:
        """Erase soon."""
        self._woken.set()

    async def sweep(self) -> int:
        """Erase all that can be erased now; the number of erasures ended. DatabaseLost.

        An erasure that fails is left to the next turn: the others go on.
        """
        ended = 0
        waiting: set[UUID] = set()
        while (done := await self._sweep_some(waiting)) is not None:
            ended += done
            await asyncio.sleep(PAUSE_S)
        return ended

    async def _sweep_some(self, waiting: set[UUID]) -> int | None:
        """A portion of the next erasure: 1 if it has ended, 0 if not, None without one.

        One that fails, or cannot end yet, joins those that are `waiting`, which are left out.
        """
        erasure_id: UUID | None = None
        ended = 0
        try:
            async with transaction(self._sessions, within_s=LONG_TRANSACTION_S) as session:
                wanted = select(Erasure).where(Erasure.id.not_in(waiting)).order_by(Erasure.id)
                erasure = await session.scalar(wanted.limit(1).with_for_update(skip_locked=True))
                if erasure is None:
                    return None
                erasure_id, files = erasure.id, erasure.files
                if not await _erase_some(session, erasure):
                    if await self._end(session, erasure):
                        ended = 1
                    else:
                        waiting.add(erasure_id)
        except DatabaseLost:
            raise
        except Exception:
            if erasure_id is None:
                raise
            waiting.add(erasure_id)
            log.exception("erasure_failed", id=str(erasure_id))
            return 0
        if erasure.files > files:
            self._files_marked()
        return ended

    async def _end(self, session: AsyncSession, erasure: Erasure) -> bool:
        """Erase what versions of the predictor have, and end; whether that can be done yet.

        Not before a job's files are written, or while a training run may have read erased rows.
        """
        training = select(TrainingRun.id).where(
            TrainingRun.state.in_(OPEN_STATES), TrainingRun.created_at > func.now() - MAX_RUN
        )
        if await batches_left(session, erasure):
            return False
        if await session.scalar(training.limit(1)) is not None:
            return False
        apps = {erasure.app_id} if erasure.app_id else await _apps(session, erasure.tenant_id)
        predictors = await Registry(self._sessions).forget_texts(apps, erasure.actor)
        instructions = await delete_unused_instructions(session)
        counts = {"rows": erasure.rows, "batches": erasure.batches, "files": erasure.files}
        after = {**counts, "instructions": instructions, "predictors": predictors}
        kind = "app" if erasure.app_id else "tenant"
        subject = erasure.app_id or erasure.tenant_id
        note(session, erasure.actor, f"{kind}.erased", subject, after=after)
        await session.delete(erasure)
        log.info("erasure_ended", kind=kind, id=str(subject), **after)
        return True

    async def _turn(self) -> None:
        await self.sweep()


async def _erase_some(session: AsyncSession, erasure: Erasure) -> bool:
    """Erase a portion; whether there was one."""
    for erase in (erase_batches, erase_files, erase_rows):
        if await erase(session, erasure):
            return True
    return False


async def _apps(session: AsyncSession, tenant_id: UUID) -> set[UUID]:
    return {*await session.scalars(select(App.id).where(App.tenant_id == tenant_id))}
