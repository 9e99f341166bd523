"""Applies migrations: upgrades a database's tables to this release."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Final

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
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
_NOTE: Final = text("INSERT INTO compatible_releases VALUES (:revision) ON CONFLICT DO NOTHING")
_SUITS: Final = text("SELECT EXISTS (SELECT FROM compatible_releases WHERE revision = :revision)")

log = structlog.get_logger()


def migrate(url: str) -> None:
    """Apply all missing migrations. Blocks: call it in a thread.

    Safe when several gateways do this at once: one migrates, the others wait. Tables of a newer
    release are used as they are if they still suit this one, so that a release can be rolled back.
    StartupFailure if they do not, or the database cannot be reached.
    """
    parameters = connection_parameters(url)
    try:
        with alembic_config(url) as config:
            connection: Connection = config.attributes["connection"]
            scripts = ScriptDirectory.from_config(config)
            newer = newer_revision(connection, scripts)
            if newer is not None and suits(connection, scripts):
                log.warning("database_of_newer_release", revision=newer)
                return
            command.upgrade(config, "head")
            connection.execute(_NOTE, {"revision": scripts.get_current_head()})
            connection.commit()
    except CommandError as error:
        raise StartupFailure(
            f"DATABASE_URL: cannot migrate: {error}; is the database of a newer release?"
        ) from error
    except DBAPIError as error:
        raise unreachable(error, parameters) from error


def newer_revision(connection: Connection, scripts: ScriptDirectory) -> str | None:
    """The tables' revision if this release does not know it; None if it does."""
    present = MigrationContext.configure(connection).get_current_revision()
    known = {each.revision for each in scripts.walk_revisions()}
    return None if present is None or present in known else present


def suits(connection: Connection, scripts: ScriptDirectory) -> bool:
    """Whether tables of a newer release suit this one, by what that release noted in them."""
    there = connection.execute(text("SELECT to_regclass('compatible_releases')")).scalar_one()
    if there is None:
        return False
    return bool(connection.execute(_SUITS, {"revision": scripts.get_current_head()}).scalar_one())


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
