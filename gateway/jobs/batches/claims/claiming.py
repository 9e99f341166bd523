"""Claims the lines of jobs that run next, each for one gateway."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, Final
from uuid import UUID

from msgspec import Struct
from sqlalchemy import Row, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.jobs.batches.claims.companions import (
    NextLine,
    Place,
    due_alike,
    find_companions,
    with_companions,
)
from gateway.jobs.batches.lines import opened_prefixes
from gateway.jobs.batches.states import LineState
from models import Batch, BatchLine, Tenant

MAX_ATTEMPTS: Final = 10  # of a line: more gateways have died with it than chance explains


class RunningBatch(Struct, frozen=True, kw_only=True):
    """A job that is due in `left_s`; `running` lines of it run, on all gateways."""

    id: UUID
    tenant_id: UUID
    share: float
    left_s: float
    running: int
    waits: bool = True


async def claim_lines(
    session: AsyncSession, model: str, owner: UUID, count: int, without: Collection[UUID] = ()
) -> list[BatchLine]:
    """Up to `count` lines that now belong to `owner`, in the order in which they are to start.

    Lines of the apps `without` are left out.
    """
    claimed: list[BatchLine] = []
    batches = await _running_batches(session, model, without)
    for batch in in_turn(batches):
        others = [b for b in batches if b.tenant_id == batch.tenant_id and b.id != batch.id]
        for apart in (True, False):
            left = count - len(claimed)
            if left > 0:
                places = await _pick(session, batch, others, owner, left, apart=apart)
                claimed += await _take(session, places, owner)
        if len(claimed) >= count:
            break
    return claimed


def in_turn(batches: Sequence[RunningBatch]) -> list[RunningBatch]:
    """The jobs with waiting lines in the order in which they get lines started.

    The tenant with the fewest running lines for its share is first, and of its jobs the one that is
    due first.
    """
    running: dict[UUID, float] = defaultdict(float)
    for batch in batches:
        running[batch.tenant_id] += batch.running / batch.share
    waiting = (batch for batch in batches if batch.waits)
    return sorted(waiting, key=lambda b: (running[b.tenant_id], b.left_s, b.id))


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
            func.extract("epoch", Batch.expires_at - func.now()).label("left_s"),
            lines.scalar_subquery().label("running"),
            waiting.exists().label("waits"),
        )
        .join(Tenant, Tenant.id == Batch.tenant_id)
        .where(
            Batch.model == model,
            Batch.app_id.not_in(without),
            Batch.status == "in_progress",
            Batch.expires_at > func.now(),
        )
    )
    rows: Sequence[Row[Any]] = (await session.execute(statement)).all()
    return [
        RunningBatch(
            id=row.id,
            tenant_id=row.tenant_id,
            share=row.share,
            left_s=float(row.left_s),
            running=row.running,
            waits=row.waits,
        )
        for row in rows
    ]


async def _pick(
    session: AsyncSession,
    batch: RunningBatch,
    others: Sequence[RunningBatch],
    owner: UUID,
    count: int,
    *,
    apart: bool,
) -> list[Place]:
    """The next lines of a job, with those of the tenant's other jobs that go along; locked.

    `apart` from the prefix groups that another gateway works on. So a group's prefix is computed by
    one gateway, as long as there are other groups.
    """
    jobs = [batch.id, *(other.id for other in others)]
    found = await _next_lines(session, batch.id, jobs if apart else (), owner, count + 1)
    lines = found[:count]
    alike = [
        other.id
        for other in sorted(others, key=lambda b: (b.left_s, b.id))
        if other.waits and due_alike(batch.left_s, other.left_s)
    ]
    if not alike:
        return [line.place for line in lines]
    prefixes = {line.prefix_id for line in lines if line.prefix_id}
    prefixes |= await opened_prefixes(session, jobs, owner)
    companions = await find_companions(session, alike, prefixes, count)
    following = found[count].prefix_id if len(found) > count else None
    return with_companions(lines, following, companions)[:count]


async def _next_lines(
    session: AsyncSession, batch_id: UUID, apart_in: Sequence[UUID], owner: UUID, count: int
) -> list[NextLine]:
    """The next lines of a job, without the groups that run elsewhere in the jobs `apart_in`."""
    elsewhere = select(BatchLine.prefix_id).where(
        BatchLine.batch_id.in_(apart_in),
        BatchLine.state == LineState.RUNNING,
        BatchLine.claimed_by != owner,
        BatchLine.prefix_id.is_not(None),
    )
    following = (
        select(BatchLine.number, BatchLine.prefix_id)
        .where(BatchLine.batch_id == batch_id, BatchLine.state == LineState.WAITING)
        .order_by(BatchLine.rank)
        .limit(count)
        .with_for_update(skip_locked=True)
    )
    if apart_in:
        following = following.where(
            BatchLine.prefix_id.is_(None) | BatchLine.prefix_id.not_in(elsewhere)
        )
    rows: Sequence[Any] = (await session.execute(following)).all()
    return [NextLine((batch_id, row.number), row.prefix_id) for row in rows]


async def _take(session: AsyncSession, places: Sequence[Place], owner: UUID) -> list[BatchLine]:
    """The lines at these places, which now belong to `owner`, in this order."""
    taken = (
        update(BatchLine)
        .where(tuple_(BatchLine.batch_id, BatchLine.number).in_(places))
        .values(state=LineState.RUNNING, claimed_by=owner, attempts=BatchLine.attempts + 1)
        .returning(BatchLine)
    )
    order = {place: number for number, place in enumerate(places)}
    lines = list(await session.scalars(taken)) if places else []
    return sorted(lines, key=lambda line: order[line.batch_id, line.number])
