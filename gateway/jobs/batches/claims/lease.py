"""The lease of a gateway on the lines and jobs that it works on.

All times are the database's. A gateway whose lease ran out counts as dead: its lines wait again and
its jobs have no owner, for whichever gateway comes first. What it then still does has no effect,
because a write names the owner.
"""

from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import Sessions, transaction
from gateway.jobs.batches.states import LineState
from models import Batch, BatchLine, BatchWorker

log = structlog.get_logger()

LEASE_S: Final = 30.0
RENEWALS: Final = 6  # in the time of a lease


class Lease:
    """The lease of this run of a gateway, under an id of its own."""

    def __init__(self, sessions: Sessions, owner: UUID, *, lease_s: float = LEASE_S) -> None:
        self.owner = owner
        self.renewal_s = lease_s / RENEWALS
        self._sessions = sessions
        self._expires = func.now() + timedelta(seconds=lease_s)

    async def renew(self) -> None:
        """Take or prolong the lease."""
        row = insert(BatchWorker).values(id=self.owner, expires_at=self._expires)
        row = row.on_conflict_do_update(
            index_elements=[BatchWorker.id], set_={"expires_at": self._expires}
        )
        async with transaction(self._sessions) as session:
            await session.execute(row)

    async def release(self) -> None:
        """Give up the lease, and with it all lines and jobs: the gateway stops.

        What was begun of the lines does not count as an attempt.
        """
        ours = update(BatchLine).where(
            BatchLine.claimed_by == self.owner, BatchLine.state == LineState.RUNNING
        )
        async with transaction(self._sessions) as session:
            await session.execute(
                ours.values(
                    state=LineState.WAITING, claimed_by=None, attempts=BatchLine.attempts - 1
                )
            )
            await session.execute(delete(BatchWorker).where(BatchWorker.id == self.owner))
            await _free(session)

    async def succeed(self, predecessor: UUID) -> None:
        """Free what a gateway worked on that is known to be dead."""
        async with transaction(self._sessions) as session:
            await session.execute(delete(BatchWorker).where(BatchWorker.id == predecessor))
            await _free(session)

    async def free_dead(self) -> int:
        """Free what dead gateways worked on; returns the number of lines that wait again."""
        over = delete(BatchWorker).where(
            BatchWorker.expires_at < func.now(), BatchWorker.id != self.owner
        )
        async with transaction(self._sessions) as session:
            await session.execute(over)
            freed = await _free(session)
        if freed:
            log.warning("batch_lines_freed", lines=freed)
        return freed


async def _free(session: AsyncSession) -> int:
    """Take lines and jobs from gateways without a lease; returns the number of lines."""
    alive = select(BatchWorker.id)
    jobs = update(Batch).where(Batch.owner.is_not(None), Batch.owner.not_in(alive))
    await session.execute(jobs.values(owner=None))
    lines = (
        update(BatchLine)
        .where(BatchLine.state == LineState.RUNNING, BatchLine.claimed_by.not_in(alive))
        .values(state=LineState.WAITING, claimed_by=None)
        .returning(BatchLine.number)
    )
    return len((await session.scalars(lines)).all())
