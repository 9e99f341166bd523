"""Translates database errors into the gateway's own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, TypeAlias

import psycopg
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from gateway.errors import Conflict, DatabaseLost

Sessions: TypeAlias = async_sessionmaker[AsyncSession]

LOST_MESSAGE = "the database does not answer; try again shortly"
CONNECTION_S: Final = 5.0  # to get a connection that answers
TRANSACTION_S: Final = 30.0
LONG_TRANSACTION_S: Final = 300.0  # for what an operator starts on much of history


@contextmanager
def translated(conflict: str = "it contradicts what is stored") -> Iterator[None]:
    """Raises database errors as DatabaseLost, or as Conflict with the message `conflict`.

    Conflict: a unique row exists already, or a referenced row does not.
    """
    try:
        yield
    except IntegrityError as error:
        if isinstance(
            error.orig, psycopg.errors.UniqueViolation | psycopg.errors.ForeignKeyViolation
        ):
            raise Conflict(conflict) from error
        raise
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise DatabaseLost(LOST_MESSAGE) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise DatabaseLost(LOST_MESSAGE) from error
        raise


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
