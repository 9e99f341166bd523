"""The gateway's connection pool to Postgres."""

from functools import partial
from typing import Any, Final, Self

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from gateway.database.address import connection_parameters
from gateway.database.audited_session import AuditedSession
from gateway.database.bounded_connection import BoundedConnection
from gateway.database.errors import Sessions
from gateway.errors import StartupFailure

MIN_SERVER_VERSION: Final = 150_000  # PostgreSQL 15, as server_version_num writes it
POOL_SIZE: Final = 8
POOL_WAIT_S: Final = 5.0
STATEMENT_S: Final = 300.0  # erasing a large tenant's history takes minutes


class Database:
    """A connection pool and its sessions."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.sessions: Sessions = async_sessionmaker(
            engine, expire_on_commit=False, sync_session_class=AuditedSession
        )

    @classmethod
    async def open(cls, url: str, *, statement_s: float | None = STATEMENT_S) -> Self:
        """A pool, once the server answers. StartupFailure if it does not or is too old.

        No statement takes longer than `statement_s` seconds; None: without limit.
        """
        parameters = connection_parameters(url)
        database = cls(_engine(parameters, statement_s))
        try:
            await database._check()
        except DBAPIError as error:
            await database.close()
            raise unreachable(error, parameters) from error
        except StartupFailure:
            await database.close()
            raise
        return database

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()

    async def _check(self) -> None:
        async with self.engine.connect() as connection:
            number = int((await connection.execute(text("SHOW server_version_num"))).scalar_one())
        if number < MIN_SERVER_VERSION:
            raise StartupFailure(
                f"DATABASE_URL: the server is PostgreSQL {number // 10_000}; "
                f"{MIN_SERVER_VERSION // 10_000} or newer is needed"
            )


def _engine(parameters: dict[str, Any], statement_s: float | None) -> AsyncEngine:
    return create_async_engine(
        "postgresql+psycopg://",
        async_creator=partial(BoundedConnection.open, parameters, statement_s),
        pool_size=POOL_SIZE,
        max_overflow=POOL_SIZE,
        pool_timeout=POOL_WAIT_S,
        hide_parameters=True,  # errors are logged, and parameters are user data
        pool_pre_ping=True,  # no request fails after a restart of Postgres
    )


def unreachable(error: DBAPIError, parameters: dict[str, Any]) -> StartupFailure:
    """A one-line error for a failed connection, without the password."""
    reason = " ".join(str(error.orig).split())
    password = parameters.get("password")
    if password:
        reason = reason.replace(str(password), "***")
    return StartupFailure(f"DATABASE_URL: cannot connect: {reason}")
