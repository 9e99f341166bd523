"""Deletes expired files in small transactions; several gateways may do so at the same time."""

import asyncio
from contextlib import suppress
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from gateway.database.errors import Sessions, transaction
from gateway.database.repetition import repeat
from gateway.errors import Conflict

INTERVAL_S: Final = 60.0
PAUSE_S: Final = 0.02  # between two transactions, for others
CHUNKS: Final = 64  # of a transaction: 16 MiB

# Another gateway's file is skipped while it deletes from it.
_EXPIRED: Final = text("""
    SELECT id FROM files WHERE expires_at <= now() AND id <> ALL (CAST(:failed AS uuid[]))
    ORDER BY expires_at LIMIT 1 FOR UPDATE SKIP LOCKED
""")
_DELETE_CHUNKS: Final = text("""
    DELETE FROM file_chunks WHERE file_id = :id AND number IN (
        SELECT number FROM file_chunks WHERE file_id = :id ORDER BY number LIMIT :chunks
    )
    RETURNING number
""")
_DELETE_FILE: Final = text("DELETE FROM files WHERE id = :id")

log = structlog.get_logger(__name__)


class FileSweeper:
    """Deletes expired files once a minute, and soon after `wake`."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to sweep."""
        work = repeat(self._turn, INTERVAL_S, self._woken, delayed="sweep_delayed")
        self._task = asyncio.create_task(work, name="file sweeper")

    async def close(self) -> None:
        """Stop; what is left is swept by another gateway or after the next start."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def wake(self) -> None:
        """Sweep soon."""
        self._woken.set()

    async def sweep(self) -> int:
        """Delete every expired file that no other gateway deletes; how many. DatabaseLost.

        One that cannot be deleted is left to the next turn.
        """
        files = 0
        failed: list[UUID] = []
        while (done := await self._sweep_some(failed)) is not None:
            files += done
            await asyncio.sleep(PAUSE_S)
        return files

    async def _sweep_some(self, failed: list[UUID]) -> int | None:
        """Delete some of a file's chunks: 1 if it is gone then, 0 if not, None without a file.

        A file that cannot be deleted joins the `failed`, which are left out.
        """
        file_id: UUID | None = None
        try:
            async with transaction(self._sessions) as session:
                file_id = await session.scalar(_EXPIRED, {"failed": failed})
                if file_id is None:
                    return None
                given = {"id": file_id, "chunks": CHUNKS}
                deleted = (await session.execute(_DELETE_CHUNKS, given)).all()
                if len(deleted) == CHUNKS:
                    return 0
                await session.execute(_DELETE_FILE, {"id": file_id})
        except (Conflict, SQLAlchemyError):
            if file_id is None:
                raise
            failed.append(file_id)
            log.exception("file_not_deleted", file=str(file_id))
            return 0
        return 1

    async def _turn(self) -> None:
        if files := await self.sweep():
            log.info("files_swept", files=files)
