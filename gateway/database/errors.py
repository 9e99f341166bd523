"""The border where the database's errors become the gateway's."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeAlias

import psycopg
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from gateway.errors import Conflict, DatabaseLost

Sessions: TypeAlias = async_sessionmaker[AsyncSession]

LOST = "the database does not answer; try again shortly"


@contextmanager
def translated(conflict: str = "it contradicts what is stored") -> Iterator[None]:
    """Database errors inside leave as DatabaseLost, or as Conflict with the words `conflict`.

    Conflict: a row that is unique exists already, or one that was referred to is gone.
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
        raise DatabaseLost(LOST) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise DatabaseLost(LOST) from error
        raise


@asynccontextmanager
async def transaction(
    sessions: Sessions, *, conflict: str = "it contradicts what is stored"
) -> AsyncIterator[AsyncSession]:
    """A session whose work is committed at the end, or rolled back; errors `translated`."""
    with translated(conflict):
        async with sessions.begin() as session:
            yield session
