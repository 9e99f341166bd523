"""Deletes what is older than it is kept, in small transactions: requests, audit, instructions.

The sums of usage stay: no trigger runs on a deletion. Each pause is as long as the transaction
before it, so that at least half of the time is left to what inserts and reads history.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import structlog
from msgspec import Struct
from sqlalchemy import TextClause, text
from sqlalchemy.exc import SQLAlchemyError

from gateway.database.errors import Sessions, transaction
from gateway.database.repetition import repeat
from gateway.errors import Conflict
from gateway.history.disk.spool import ASIDE

INTERVAL_S: Final = 60.0
SELDOM: Final = 60  # in how many intervals all but requests are deleted once
PORTION_ROWS: Final = 1_000  # of a transaction
MAX_LEFT: Final = 100  # rows that cannot be deleted, of a table at a time
NOT_DELETED: Final = "not_deleted"
LOCK_KEY: Final = 0x6C6D6161735F68  # of the gateway whose turn it is
BEGINNING: Final = datetime.fromtimestamp(0, UTC)
FIRST_ID: Final = UUID(int=0)

_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(:key)")


class _Deletable(Struct, frozen=True):
    """A table whose rows are deleted by a column with an index, from `beginning` on.

    `key` is what an operator finds a row by.
    """

    table: str
    column: str
    key: str
    beginning: Any

    @property
    def portion(self) -> TextClause:
        """Deletes a portion; how many rows, and the last value of the column.

        Beginning at the last portion, it does not step over the rows that were deleted before.
        """
        return text(f"""
            WITH deleted AS (
                DELETE FROM {self.table} WHERE ctid = ANY (ARRAY({self._next("ctid")}))
                RETURNING {self.column}
            )
            SELECT count(*) AS rows, (array_agg({self.column} ORDER BY {self.column} DESC))[1]
                AS last
            FROM deleted
        """)  # noqa: S608  no value is interpolated

    @property
    def next(self) -> TextClause:
        """The place and the key of the rows of the next portion."""
        return text(self._next(f"CAST(ctid AS text) AS place, {self.key} AS key"))

    def _next(self, columns: str) -> str:
        return f"""
            SELECT {columns} FROM {self.table}
            WHERE {self.column} >= :start AND {self.column} < :before
                AND ctid <> ALL (CAST(:left AS tid[]))
            ORDER BY {self.column}, ctid LIMIT :rows
        """  # noqa: S608  no value is interpolated


_REQUESTS: Final = _Deletable("requests", "arrived_at", "CAST(id AS text)", BEGINNING)
_INSTRUCTIONS: Final = _Deletable("instructions", "used_at", "encode(hash, 'hex')", BEGINNING)
_AUDIT: Final = _Deletable("audit_entries", "id", "CAST(id AS text)", FIRST_ID)

log = structlog.get_logger(__name__)


class Kept(Struct, frozen=True):
    """For how many days what is kept; None: for ever."""

    history: float | None = None
    audit: float | None = None
    set_aside: float | None = None


class HistoryRetention:
    """Deletes requests that are too old once a minute, everything else once an hour."""

    def __init__(
        self,
        sessions: Sessions,
        kept: Kept,
        spool: Path | None = None,
        counts: MutableMapping[str, int] | None = None,
    ) -> None:
        """`spool` is the folder of this gateway's spool.

        `counts` counts, as `not_deleted`, the rows that the database failed to delete, each time.
        """
        self._sessions = sessions
        self._kept = kept
        self._spool = spool
        self._counts = Counter[str]() if counts is None else counts
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

        Ends early where another gateway deletes at the same time. A row that cannot be deleted is
        left to the next time; the database's error is raised after MAX_LEFT of them.
        """
        return await self._delete(_REQUESTS, _before(self._kept.history))

    async def sweep_others(self) -> dict[str, int]:
        """Delete what else is too old: how many rows and files of each. Errors as of `sweep`."""
        audit = _before(self._kept.audit)
        until = None if audit is None else _first_id(audit)
        return {
            "instructions": await self._delete(_INSTRUCTIONS, _before(self._kept.history)),
            "audit_entries": await self._delete(_AUDIT, until),
            "files_set_aside": await asyncio.to_thread(self._delete_set_aside),
        }

    async def _delete(self, rows: _Deletable, before: Any) -> int:
        """Delete rows in portions; after one that failed in smaller ones, down to single rows."""
        deleted, size, start = 0, PORTION_ROWS, rows.beginning
        left: list[str] = []
        while before is not None:
            began = time.monotonic()
            portion = {"start": start, "before": before, "rows": size, "left": left}
            try:
                async with transaction(self._sessions) as session:
                    if not await session.scalar(_LOCK, {"key": LOCK_KEY}):
                        break
                    done = (await session.execute(rows.portion, portion)).one()
            except (Conflict, SQLAlchemyError) as error:
                if size == 1:
                    place = await self._leave(rows, portion, error)
                    if place is None or len(left) == MAX_LEFT:  # it is not the rows
                        raise
                    left.append(place)
                size = max(size // 2, 1)
            else:
                deleted += int(done.rows)
                if done.rows < size:
                    break
                start, size = done.last, min(2 * size, PORTION_ROWS)
            await asyncio.sleep(time.monotonic() - began)
        return deleted

    async def _leave(
        self, rows: _Deletable, portion: Mapping[str, Any], error: Exception
    ) -> str | None:
        """Report the one row of a portion, which cannot be deleted; its place, None without one."""
        async with transaction(self._sessions) as session:
            row = (await session.execute(rows.next, portion)).one_or_none()
        if row is None:
            return None
        self._counts[NOT_DELETED] += 1
        log.error("row_not_deleted", table=rows.table, row=row.key, exc_info=error)
        return str(row.place)

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
