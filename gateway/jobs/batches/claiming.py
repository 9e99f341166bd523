"""Claims the lines of jobs that run next, each for one gateway."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from msgspec import Struct
from sqlalchemy import Row, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.jobs.batches.states import LineState
from models import Batch, BatchLine, Tenant

MAX_ATTEMPTS: Final = 10  # of a line: more gateways have died with it than chance explains


class RunningBatch(Struct, frozen=True):
    """A job with lines that wait; `running` lines of it run, on all gateways."""

    id: UUID
    tenant_id: UUID
    share: float
    expires_at: datetime
    running: int


async def claim_lines(
    session: AsyncSession, model: str, owner: UUID, count: int, without: Collection[UUID] = ()
) -> list[BatchLine]:
    """Up to `count` lines that now belong to `owner`, in the order in which they are to start.

    Lines of the apps `without` are left out.
    """
    claimed: list[BatchLine] = []
    for batch_id in in_turn(await _running_batches(session, model, without)):
        for apart in (True, False):
            if len(claimed) < count:
                claimed += await _claim(session, batch_id, owner, count - len(claimed), apart)
        if len(claimed) >= count:
            break
    return claimed


def in_turn(batches: Sequence[RunningBatch]) -> list[UUID]:
    """The jobs in the order in which they get lines started.

    The tenant with the fewest running lines for its share is first, and of its jobs the one that is
    due first.
    """
    running: dict[UUID, float] = defaultdict(float)
    for batch in batches:
        running[batch.tenant_id] += batch.running / batch.share
    ordered = sorted(batches, key=lambda b: (running[b.tenant_id], b.expires_at, b.id))
    return [batch.id for batch in ordered]


async def _running_batches(
    session: AsyncSession, model: str, without: Collection[UUID]
) -> list[RunningBatch]:
    lines = select(func.count()).where(
        BatchLine.batch_id == Batch.id, BatchLine.state == LineState.RUNNING
    )
    waiting = select(BatchLine.number).where(
        BatchLine.batch_id == Batch.id, BatchLine.state == LineState.WAITING
    )
    statement = (
        select(
            Batch.id,
            Batch.tenant_id,
            Tenant.share,
            Batch.expires_at,
            lines.scalar_subquery().label("running"),
        )
        .join(Tenant, Tenant.id == Batch.tenant_id)
        .where(
            Batch.model == model,
            Batch.app_id.not_in(without),
            Batch.status == "in_progress",
            Batch.expires_at > func.now(),
            waiting.exists(),
        )
    )
    rows: Sequence[Row[Any]] = (await session.execute(statement)).all()
    return [RunningBatch(*tuple(row)) for row in rows]


async def _claim(
    session: AsyncSession, batch_id: UUID, owner: UUID, count: int, apart: bool
) -> list[BatchLine]:
    """The next lines of a job; `apart` from the prefix groups that another gateway works on.

    So a group's prefix is computed by one gateway, as long as there are other groups.
    """
    others = select(BatchLine.prefix_id).where(
        BatchLine.batch_id == batch_id,
        BatchLine.state == LineState.RUNNING,
        BatchLine.claimed_by != owner,
        BatchLine.prefix_id.is_not(None),
    )
    following = (
        select(BatchLine.number)
        .where(BatchLine.batch_id == batch_id, BatchLine.state == LineState.WAITING)
        .order_by(BatchLine.rank)
        .limit(count)
        .with_for_update(skip_locked=True)
    )
    if apart:
        following = following.where(
            BatchLine.prefix_id.is_(None) | BatchLine.prefix_id.not_in(others)
        )
    picked = following.cte("picked")  # evaluated once: in a subquery the limit may not hold
    taken = (
        update(BatchLine)
        .where(BatchLine.batch_id == batch_id, BatchLine.number.in_(select(picked.c.number)))
        .values(state=LineState.RUNNING, claimed_by=owner, attempts=BatchLine.attempts + 1)
        .returning(BatchLine)
    )
    return sorted(await session.scalars(taken), key=lambda line: line.rank)
