"""Transactions that end in time, whose errors are the gateway's own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from gateway.database.translation import LOST_MESSAGE, Sessions, translated
from gateway.errors import DatabaseLost

__all__ = ["LONG_TRANSACTION_S", "LOST_MESSAGE", "Sessions", "now_of", "transaction", "translated"]

CONNECTION_S: Final = 5.0  # to get a connection that answers
TRANSACTION_S: Final = 30.0
LONG_TRANSACTION_S: Final = 300.0  # for what an operator starts on much of history


@asynccontextmanager
async def transaction(
    sessions: Sessions,
    *,
    conflict: str = "it contradicts what is stored",
    within_s: float = TRANSACTION_S,
) -> AsyncIterator[AsyncSession]:
    """A session that is committed at the end, or rolled back on an error; see `translated`.

    DatabaseLost if the database gives no connection within CONNECTION_S, or is not done after
    `within_s` seconds; the connection is then closed and its statement cancelled.
    """
    limit = asyncio.timeout(within_s)
    connecting = asyncio.timeout(min(CONNECTION_S, within_s))
    try:
        with translated(conflict):
            async with limit, sessions.begin() as session:
                async with connecting:
                    await session.connection()
                yield session
    except TimeoutError as error:
        if limit.expired() or connecting.expired():
            raise DatabaseLost(LOST_MESSAGE) from error
        raise


async def now_of(session: AsyncSession) -> datetime:
    """The time at which the transaction began, by the database's clock."""
    return (await session.execute(select(func.now()))).scalar_one()
