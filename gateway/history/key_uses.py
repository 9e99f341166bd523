"""When API keys were last used: noted in memory by each request, written now and then."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from gateway.database.errors import Sessions, transaction
from gateway.errors import LmaasError

INTERVAL_S: Final = 60.0
MAX_KEYS: Final = 10_000  # with a use that is not written yet; uses of more are not noted
KEYS_PER_WRITE: Final = 1_000
CLOSE_S: Final = 5.0

# Keys that are locked are left out: nothing waits here, so no two writers wait for each other.
_WRITE: Final = text("""
    WITH used AS (
        SELECT api_keys.id, given.at
        FROM unnest(CAST(:keys AS uuid[]), CAST(:times AS timestamptz[])) AS given (id, at)
        JOIN api_keys ON api_keys.id = given.id
        WHERE last_used_at IS NULL OR last_used_at < given.at
        FOR NO KEY UPDATE OF api_keys SKIP LOCKED
    )
    UPDATE api_keys SET last_used_at = used.at FROM used WHERE api_keys.id = used.id
""")

log = structlog.get_logger(__name__)


class KeyUses:
    """The last use of keys, at most a minute after it; a killed gateway loses that minute."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._used: dict[UUID, datetime] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to write."""
        self._task = asyncio.create_task(self._run(), name="key uses")

    async def close(self) -> None:
        """Write once more and stop."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self.write()

    def note(self, api_key_id: UUID) -> None:
        """A key was used now."""
        if api_key_id in self._used or len(self._used) < MAX_KEYS:
            self._used[api_key_id] = datetime.now(UTC)

    async def write(self) -> None:
        """Write what was noted; what the database does not take is noted still."""
        used, self._used = self._used, {}
        try:
            while used:
                some = dict(islice(used.items(), KEYS_PER_WRITE))
                given = {"keys": list(some), "times": list(some.values())}
                async with transaction(self._sessions) as session:
                    await session.execute(_WRITE, given)
                for key in some:
                    del used[key]
        except (LmaasError, SQLAlchemyError) as error:
            log.warning("key_uses_delayed", reason=str(error))
        finally:
            self._used = used | self._used

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            await self.write()
