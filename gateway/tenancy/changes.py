"""Changes of tenants, apps and keys, as they reach every gateway."""

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.errors import Sessions, transaction
from gateway.database.notify import POLL_S, React, Subscription, notify
from gateway.errors import DatabaseLost
from models import TenancyVersion

CHANNEL: Final = "lmaas_tenancy"
ONLY: Final = 1  # the id of the table's one row

log = structlog.get_logger(__name__)


async def announce(session: AsyncSession) -> None:
    """Make every gateway look at tenants, apps and keys again once the transaction is committed."""
    row = insert(TenancyVersion).values(id=ONLY, version=1)
    raised = row.on_conflict_do_update(
        index_elements=[TenancyVersion.id], set_={"version": TenancyVersion.version + 1}
    )
    await session.execute(raised)
    await notify(session, CHANNEL)


class TenancyChanges:
    """Calls `reactions`, in order, after a change by any gateway.

    A notification is only the occasion: what counts is the version in the database. So one that was
    lost is made up for, and no reaction is called without a change. One that raises DatabaseLost is
    called again.
    """

    def __init__(
        self,
        sessions: Sessions,
        database_url: str,
        reactions: Sequence[React] = (),
        *,
        poll_s: float = POLL_S,
    ) -> None:
        self._sessions = sessions
        self._reactions = reactions
        self._seen: int | None = None
        self._lock = asyncio.Lock()
        self._subscription = Subscription(database_url, CHANNEL, self.follow, poll_s=poll_s)

    def start(self) -> None:
        """Start to follow changes."""
        self._subscription.start("tenancy changes")

    async def close(self) -> None:
        """Stop following."""
        await self._subscription.close()

    async def follow(self) -> None:
        """React, if there was a change since the last time: on return, to all committed before."""
        try:
            async with self._lock:
                async with transaction(self._sessions) as session:
                    version = await session.scalar(select(TenancyVersion.version))
                if version == self._seen:
                    return
                for react in self._reactions:
                    await react()
                self._seen = version
        except DatabaseLost as error:
            log.warning("tenancy_change_not_followed", reason=error.message)
