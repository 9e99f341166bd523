"""A connection whose every wait for the server ends in time, even if the server hangs.

psycopg itself waits for ever for an answer, and up to 10 s after a cancellation. Here a connection
that is cancelled, or that waits for longer than its limit, is closed: the pool replaces it.
"""

import asyncio
from typing import Any, Final, Self, TypeVar

import psycopg
import structlog
from psycopg import waiting
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

from gateway.database.far_times import read_nearest

log = structlog.get_logger()

CANCEL_S: Final = 0.5  # a server that answers at all stops a statement within this
ROLLBACK_S: Final = 2.0
POLL_S: Final = 0.1  # psycopg's own
# An operator's own limit, set for the role or the database, is left as it is.
_LIMIT_STATEMENTS: Final = """
    SELECT set_config('statement_timeout', %s, false)
    WHERE current_setting('statement_timeout') = '0'
"""

RV = TypeVar("RV")


class BoundedConnection(psycopg.AsyncConnection[Any]):
    """A connection that waits at most `limit_s` seconds for each answer; None: without limit."""

    limit_s: float | None = None

    @classmethod
    async def open(cls, parameters: dict[str, Any], limit_s: float | None) -> Self:
        """A connection with this limit, which the server knows too."""
        connection = await cls.connect(**parameters, autocommit=True)
        connection.limit_s = limit_s
        read_nearest(connection)
        try:
            if limit_s is not None:
                await connection.execute(_LIMIT_STATEMENTS, [f"{limit_s:.0f}s"])
            await connection.set_autocommit(False)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def wait(
        self,
        gen: PQGen[RV],
        interval: float = POLL_S,
        timeout: float | None = None,  # noqa: ASYNC109  psycopg's own parameter
    ) -> RV:
        """What `gen` returns. OperationalError, and the connection closed, after the limit."""
        try:
            async with asyncio.timeout(self.limit_s):
                return await waiting.wait_async(
                    gen, self.pgconn.socket, interval=interval, timeout=timeout
                )
        except TimeoutError as error:
            await self._abandon()
            raise psycopg.OperationalError("the server did not answer in time") from error
        except asyncio.CancelledError:
            await self._abandon()
            raise

    async def rollback(self) -> None:
        """Roll back the transaction; OperationalError, and the connection closed, after 2 s."""
        try:
            async with asyncio.timeout(ROLLBACK_S):
                await super().rollback()
        except TimeoutError as error:
            raise psycopg.OperationalError("the server did not roll back in time") from error

    async def _abandon(self) -> None:
        """Have the server stop the statement, so that none runs on unread, and close."""
        try:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                await self.cancel_safe(timeout=CANCEL_S)
        except psycopg.Error as error:
            log.warning("statement_not_cancelled", reason=str(error))
        finally:
            self.pgconn.finish()
