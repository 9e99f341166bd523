"""Deletes requests that are older than the history is kept, in small transactions.

The sums of usage stay: no trigger runs on a deletion. Each pause is as long as the transaction
before it, so that at least half of the time is left to what inserts and reads history.
"""

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from gateway.database.errors import Sessions, transaction
from gateway.errors import LmaasError

INTERVAL_S: Final = 60.0
PORTION_ROWS: Final = 1_000  # of a transaction
LOCK_KEY: Final = 0x6C6D6161735F68  # of the gateway whose turn it is
BEGINNING: Final = datetime.fromtimestamp(0, UTC)

_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(:key)")
# Beginning at the last portion, it does not step over the rows that were deleted before.
_DELETE: Final = text("""
    WITH deleted AS (
        DELETE FROM requests WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM requests WHERE arrived_at >= :start AND arrived_at < :before
            ORDER BY arrived_at LIMIT :rows
        ))
        RETURNING arrived_at
    )
    SELECT count(*) AS rows, max(arrived_at) AS last FROM deleted
""")

log = structlog.get_logger(__name__)


class HistoryRetention:
    """Deletes what arrived more than `days` ago, once a minute."""

    def __init__(self, sessions: Sessions, days: float) -> None:
        self._sessions = sessions
        self._kept = timedelta(days=days)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to delete."""
        self._task = asyncio.create_task(self._run(), name="history retention")

    async def close(self) -> None:
        """Stop; what is left is deleted by another gateway or after the next start."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def sweep(self) -> int:
        """Delete every row that is too old; how many. DatabaseLost.

        Ends early where another gateway deletes at the same time.
        """
        before = datetime.now(UTC) - self._kept
        rows: int = 0
        start = BEGINNING
        while True:
            began = time.monotonic()
            async with transaction(self._sessions) as session:
                if not await session.scalar(_LOCK, {"key": LOCK_KEY}):
                    return rows
                portion = {"start": start, "before": before, "rows": PORTION_ROWS}
                done = (await session.execute(_DELETE, portion)).one()
            rows += int(done.rows)
            if done.rows < PORTION_ROWS:
                return rows
            start = done.last
            await asyncio.sleep(time.monotonic() - began)

    async def _run(self) -> None:
        while True:
            try:
                if rows := await self.sweep():
                    log.info("history_deleted", rows=rows)
            except (LmaasError, SQLAlchemyError) as error:
                log.warning("retention_delayed", reason=str(error))
            await asyncio.sleep(INTERVAL_S)
