"""Translates database errors into the gateway's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

import psycopg
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from gateway.errors import Conflict, DatabaseLost

Sessions: TypeAlias = async_sessionmaker[AsyncSession]

LOST_MESSAGE: Final = "the database does not answer; try again shortly"


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
