"""When each API key was last used: kept in memory, and written off the path of requests."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, Self
from uuid import UUID

import structlog
from sqlalchemy import bindparam, func, update

from gateway.database.errors import Sessions, transaction
from gateway.errors import LmaasError
from models import ApiKey

WRITE_S: Final = 30.0

log = structlog.get_logger()


def _now() -> datetime:
    return datetime.now(UTC)


class KeyUse:
    """Notes the use of keys; within it, what was noted is written every `WRITE_S`, and at its end.

    What cannot be written waits for the next time.
    """

    def __init__(
        self,
        sessions: Sessions,
        *,
        write_s: float = WRITE_S,
        now: Callable[[], datetime] = _now,
    ) -> None:
        self._sessions = sessions
        self._write_s = write_s
        self._now = now
        self._used: dict[UUID, datetime] = {}
        self._task: asyncio.Task[None] | None = None

    def used(self, api_key_id: UUID) -> None:
        """The key is used now."""
        self._used[api_key_id] = self._now()

    async def __aenter__(self) -> Self:
        """Start to write."""
        self._task = asyncio.create_task(self._run(), name="key use")
        return self

    async def __aexit__(self, *_: object) -> None:
        """Write what is noted, and stop."""
        assert self._task is not None, "it was entered"
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        await self.write()

    async def write(self) -> None:
        """Write what was noted since the last time; a later use of another gateway stays."""
        noted, self._used = self._used, {}
        if not noted:
            return
        table = ApiKey.__table__
        later = func.greatest(table.c.last_used_at, bindparam("at"))
        statement = update(ApiKey).where(ApiKey.id == bindparam("key")).values(last_used_at=later)
        rows = [{"key": key, "at": at} for key, at in sorted(noted.items())]
        try:
            async with transaction(self._sessions) as session:
                await (await session.connection()).execute(statement, rows)
        except LmaasError as error:
            self._used = {**noted, **self._used}
            log.warning("key_use_not_written", reason=error.message)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._write_s)
            await self.write()
