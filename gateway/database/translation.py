"""Translates database errors into the gateway's own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

import psycopg
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from gateway.errors import Conflict, DatabaseLost

Sessions: TypeAlias = async_sessionmaker[AsyncSession]

REFUSALS: Final = (
    psycopg.errors.ProgramLimitExceeded,  # too large a value for an index
    psycopg.errors.DataCorrupted,
    psycopg.errors.IndexCorrupted,
)
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
    except (SQLAlchemyError, psycopg.Error) as error:
        if is_lost(error):
            raise DatabaseLost(LOST_MESSAGE) from error
        raise


def is_lost(error: SQLAlchemyError | psycopg.Error) -> bool:
    """Whether the database is away or busy, so that the same statement can succeed later.

    The driver's own errors are those of a COPY.
    """
    if isinstance(error, psycopg.Error):
        lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        return lost and not isinstance(error, REFUSALS)
    if isinstance(error, DBAPIError) and isinstance(error.orig, REFUSALS):
        return False
    if isinstance(error, OperationalError | InterfaceError | PoolTimeout):
        return True
    return isinstance(error, DBAPIError) and error.connection_invalidated


def is_refused(error: SQLAlchemyError) -> bool:
    """Whether the database refuses these values, or the row that they are for, now and later."""
    if isinstance(error, DataError | IntegrityError):
        return True
    return isinstance(error, DBAPIError) and isinstance(error.orig, REFUSALS)
