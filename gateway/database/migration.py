"""Applies migrations: upgrades a database's tables to this release."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

import migrations
from gateway.database.address import connection_parameters
from gateway.database.connection import unreachable
from gateway.errors import StartupFailure

LOCK_KEY: Final = 0x6C6D_6161_73  # "lmaas"; the advisory lock lets one gateway migrate at a time
LOCK_TIMEOUT: Final = "120s"


def migrate(url: str) -> None:
    """Apply all missing migrations. Blocks: call it in a thread.

    Safe when several gateways do this at once: one migrates, the others wait.
    StartupFailure if the database cannot be reached or is of a newer release.
    """
    parameters = connection_parameters(url)
    try:
        with alembic_config(url) as config:
            command.upgrade(config, "head")
    except CommandError as error:
        raise StartupFailure(
            f"DATABASE_URL: cannot migrate: {error}; is the database of a newer release?"
        ) from error
    except DBAPIError as error:
        raise unreachable(error, parameters) from error


@contextmanager
def alembic_config(url: str) -> Iterator[Config]:
    """Alembic's configuration with a connection that holds the migration lock."""
    engine = migration_engine(url)
    with engine.connect() as connection:
        _lock(connection)
        config = Config(Path(migrations.__file__).parent / "alembic.ini", stdout=StringIO())
        config.attributes["connection"] = connection
        yield config


def migration_engine(url: str) -> Engine:
    """A SQLAlchemy engine without a pool, for one migration."""
    return create_engine(
        "postgresql+psycopg://", connect_args=connection_parameters(url), poolclass=NullPool
    )


def _lock(connection: Connection) -> None:
    """Wait for the lock; closing the connection releases it."""
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": LOCK_KEY})
    connection.commit()
