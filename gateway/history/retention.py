"""Deletes what is older than it is kept, in small transactions: requests, audit, instructions.

The sums of usage stay: no trigger runs on a deletion. Each pause is as long as the transaction
before it, so that at least half of the time is left to what inserts and reads history.
"""

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import structlog
from msgspec import Struct
from sqlalchemy import TextClause, text

from gateway.database.errors import Sessions, transaction
from gateway.database.repetition import repeat
from gateway.history.disk.spool import ASIDE

INTERVAL_S: Final = 60.0
SELDOM: Final = 60  # in how many intervals all but requests are deleted once
PORTION_ROWS: Final = 1_000  # of a transaction
LOCK_KEY: Final = 0x6C6D6161735F68  # of the gateway whose turn it is
BEGINNING: Final = datetime.fromtimestamp(0, UTC)
FIRST_ID: Final = UUID(int=0)

_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(:key)")


def _deletion(table: str, column: str) -> TextClause:
    """Deletes a portion by a column with an index.

    Beginning at the last portion, it does not step over the rows that were deleted before.
    """
    return text(f"""
        WITH deleted AS (
            DELETE FROM {table} WHERE ctid = ANY (ARRAY(
                SELECT ctid FROM {table} WHERE {column} >= :start AND {column} < :before
                ORDER BY {column} LIMIT :rows
            ))
            RETURNING {column}
        )
        SELECT count(*) AS rows, (array_agg({column} ORDER BY {column} DESC))[1] AS last
        FROM deleted
    """)  # noqa: S608  no value is interpolated


_REQUESTS: Final = _deletion("requests", "arrived_at")
_INSTRUCTIONS: Final = _deletion("instructions", "used_at")
_AUDIT: Final = _deletion("audit_entries", "id")

log = structlog.get_logger(__name__)


class Kept(Struct, frozen=True):
    """For how many days what is kept; None: for ever."""

    history: float | None = None
    audit: float | None = None
    set_aside: float | None = None


class HistoryRetention:
    """Deletes requests that are too old once a minute, everything else once an hour.

    `spool` is the folder of this gateway's spool.
    """

    def __init__(self, sessions: Sessions, kept: Kept, spool: Path | None = None) -> None:
        self._sessions = sessions
        self._kept = kept
        self._spool = spool
        self._turns = count()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to delete."""
        work = repeat(self._turn, INTERVAL_S, delayed="retention_delayed")
        self._task = asyncio.create_task(work, name="history retention")

    async def close(self) -> None:
        """Stop; what is left is deleted by another gateway or after the next start."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def sweep(self) -> int:
        """Delete every request that is too old; how many. DatabaseLost.

        Ends early where another gateway deletes at the same time.
        """
        return await self._delete(_REQUESTS, BEGINNING, _before(self._kept.history))

    async def sweep_others(self) -> dict[str, int]:
        """Delete what else is too old: how many rows and files of each. DatabaseLost."""
        audit = _before(self._kept.audit)
        until = None if audit is None else _first_id(audit)
        return {
            "instructions": await self._delete(
                _INSTRUCTIONS, BEGINNING, _before(self._kept.history)
            ),
            "audit_entries": await self._delete(_AUDIT, FIRST_ID, until),
            "files_set_aside": await asyncio.to_thread(self._delete_set_aside),
        }

    async def _delete(self, statement: TextClause, start: Any, before: Any) -> int:
        rows: int = 0
        while before is not None:
            began = time.monotonic()
            async with transaction(self._sessions) as session:
                if not await session.scalar(_LOCK, {"key": LOCK_KEY}):
                    break
                portion = {"start": start, "before": before, "rows": PORTION_ROWS}
                done = (await session.execute(statement, portion)).one()
            rows += int(done.rows)
            if done.rows < PORTION_ROWS:
                break
            start = done.last
            await asyncio.sleep(time.monotonic() - began)
        return rows

    def _delete_set_aside(self) -> int:
        """Delete the files that nothing was added to for so long; how many."""
        before = _before(self._kept.set_aside)
        if self._spool is None or before is None:
            return 0
        old = [
            path
            for path in self._spool.glob(f"*{ASIDE}")
            if path.stat().st_mtime < before.timestamp()
        ]
        for path in old:
            path.unlink(missing_ok=True)
        return len(old)

    async def _turn(self) -> None:
        turn = next(self._turns)
        if rows := await self.sweep():
            log.info("history_deleted", rows=rows)
        if turn % SELDOM == 0 and any((deleted := await self.sweep_others()).values()):
            log.info("old_data_deleted", **deleted)


def _before(days: float | None) -> datetime | None:
    """What is older than this number of days is from before this."""
    return None if days is None else datetime.now(UTC) - timedelta(days=days)


def _first_id(at: datetime) -> UUID:
    """The least id that may have been made then: ids begin with their milliseconds."""
    return UUID(int=int(at.timestamp() * 1000) << 80)
