"""Starts a job whose lines are stored: plans it with what waits, and ranks the lines of all."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final
from uuid import UUID

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import LONG_TRANSACTION_S, Sessions, now_of, transaction
from gateway.jobs.batches.claims.attempts import NotOurs, set_untried
from gateway.jobs.batches.lines import lock_order, store_ranks
from gateway.jobs.batches.progress.work import work_of
from gateway.jobs.batches.validation.planning import (
    JobPlanner,
    PlanInput,
    RankedJob,
    RerankedJob,
)
from gateway.jobs.batches.validation.queued import jobs_in_progress, queued_jobs
from gateway.jobs.planning.sharing_report import SharingReport
from gateway.tenancy.caller import Caller
from models import Batch

log = structlog.get_logger()

PLANS: Final = 3  # of one job, while others start: the last need not have those


class OtherJobsStarted(Exception):
    """Jobs of the same tenant and model have started that the plan does not have."""


class JobStart:
    """Starts jobs for one gateway."""

    def __init__(
        self,
        sessions: Sessions,
        planner: JobPlanner,
        owner: UUID,
        reranked: Callable[[UUID], None],
    ) -> None:
        """`reranked` is called with each other job whose lines have been ranked again."""
        self._sessions = sessions
        self._planner = planner
        self._owner = owner
        self._reranked = reranked

    async def start(self, batch: Batch, total: int, lines: PlanInput, caller: Caller) -> None:
        """Set a job of `total` lines going, of which `lines` can run. NotOurs."""
        for left in reversed(range(PLANS)):
            with suppress(OtherJobsStarted):
                await self._try(batch, total, lines, caller, final=not left)
                break
        log.info("batch_started", batch=str(batch.id), lines=total, valid=len(lines.numbers))

    async def _try(
        self, batch: Batch, total: int, lines: PlanInput, caller: Caller, *, final: bool
    ) -> None:
        """Plan and start the job, all or nothing. OtherJobsStarted unless `final`."""
        async with queued_jobs(self._sessions, batch, self._planner.page_tokens) as queued:
            plan = await self._planner.plan(lines, queued, caller)
        async with transaction(self._sessions, within_s=LONG_TRANSACTION_S) as session:
            await lock_order(session, batch.tenant_id, batch.model)
            if not final and not await jobs_in_progress(session, batch) <= queued.seen:
                raise OtherJobsStarted
            ours = await own_job(session, batch.id, self._owner)
            await _store_others(session, plan.queued)
            await store_ranks(session, batch.id, plan.lines)
            _set_going(ours, total, lines, plan)
            ours.page_tokens = self._planner.page_tokens
            ours.in_progress_at = await now_of(session)
        for other in plan.queued:
            self._reranked(other.job)


async def own_job(session: AsyncSession, batch_id: UUID, owner: UUID) -> Batch:
    """A job that its owner validates, locked. NotOurs."""
    ours = select(Batch).where(
        Batch.id == batch_id, Batch.status == "validating", Batch.owner == owner
    )
    found = await session.scalar(ours.with_for_update())
    if found is None:
        raise NotOurs("it was cancelled, expired or freed")
    return found


async def _store_others(session: AsyncSession, jobs: Sequence[RerankedJob]) -> None:
    """Rank the lines of other jobs. A job's work is less by what its lines now share."""
    others = select(Batch).where(Batch.id.in_([other.job for other in jobs]))
    batches = await session.scalars(others.order_by(Batch.id).with_for_update())
    found = {batch.id: batch for batch in batches}
    for other in jobs:
        found[other.job].work -= work_of(0.0, other.more_shared)
        await store_ranks(session, other.job, other.lines)


def _set_going(batch: Batch, total: int, lines: PlanInput, plan: RankedJob) -> None:
    shared = sum(line.prefix.tokens for line in plan.lines)
    batch.total = total
    batch.failed = total - len(lines.numbers)
    batch.work = work_of(float(lines.expected.sum()), int(lines.lengths.sum()) - shared)
    batch.sharing = _described(plan.report) if plan.report else None
    batch.status, batch.owner = "in_progress", None
    set_untried(batch)


def _described(report: SharingReport) -> dict[str, Any]:
    """The report as a job keeps it."""
    return {
        "prompt_tokens": report.prompt_tokens,
        "computed_tokens": report.computed_tokens,
        "saved_share": round(report.saved_share, 4),
        "groups": sum(size.groups for size in report.groups_by_size),
        "warning": report.warning,
    }
