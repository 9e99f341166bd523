"""Checks the database: whether it answers, its version, its tables and its clock."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

import migrations
from gateway.database.address import connection_parameters
from gateway.database.connection import MIN_SERVER_VERSION, unreachable
from gateway.database.embedded import EmbeddedPostgres
from gateway.database.migration import migration_engine, newer_revision, suits
from gateway.diagnosis.finding import Finding, failure, ok, warning
from gateway.errors import StartupFailure
from gateway.settings import Settings

MAX_CLOCK_OFFSET_S: Final = 5.0
STATEMENT: Final = "SET statement_timeout = '5s'"


def check_database(settings: Settings, *, running: bool) -> Iterator[Finding]:
    """The database of DATABASE_URL, or else the embedded one.

    A stopped embedded server is started for the check, unless a gateway runs, which should have it.
    """
    if settings.database_url is not None:
        remedy = "start the database or correct DATABASE_URL; unset, an embedded one is used"
        yield from _check(settings.database_url, "external", remedy, running=running)
        return
    folder = settings.data_folder
    if not (folder / "postgres").is_dir():
        yield ok("database", "embedded; the first `lmaas serve` creates it")
        return
    log = folder / "postgres" / "server.log"
    server = EmbeddedPostgres(folder)
    if running:
        remedy = f"restart the gateway, which starts it; its log is {log}"
        yield from _check(server.url, "embedded", remedy, running=True)
        return
    remedy = f"see the end of {log}; or set DATABASE_URL, or LMAAS_DATA_DIR to another folder"
    try:
        with server:
            yield from _check(server.url, "embedded", remedy, running=False)
    except StartupFailure as error:
        yield failure("database", error.message, remedy)


def _check(url: str, kind: str, remedy: str, *, running: bool) -> Iterator[Finding]:
    try:
        parameters = connection_parameters(url)
    except StartupFailure as error:
        yield failure("database", error.message, "correct DATABASE_URL, or unset it")
        return
    try:
        with migration_engine(url).connect() as connection:
            connection.execute(text(STATEMENT))
            yield _server(connection, kind)
            yield _tables(connection, running=running)
            yield from _clock(connection)
    except DBAPIError as error:
        message = unreachable(error, parameters).message.removeprefix("DATABASE_URL: ")
        yield failure("database", f"{kind}: {message}", remedy)


def _server(connection: Connection, kind: str) -> Finding:
    number = int(connection.execute(text("SHOW server_version_num")).scalar_one())
    version = f"{kind}, PostgreSQL {number // 10_000}.{number % 10_000}"
    if number < MIN_SERVER_VERSION:
        least = MIN_SERVER_VERSION // 10_000
        return failure("database", version, f"use PostgreSQL {least} or newer")
    return ok("database", version)


def _tables(connection: Connection, *, running: bool) -> Finding:
    scripts = ScriptDirectory.from_config(Config(Path(migrations.__file__).parent / "alembic.ini"))
    present = MigrationContext.configure(connection).get_current_revision()
    head = scripts.get_current_head()
    if present == head:
        return ok("migrations", f"the tables are this release's ({head})")
    if newer_revision(connection, scripts) is not None:
        message = f"the tables are of a newer release ({present})"
        if suits(connection, scripts):
            return ok("migrations", f"{message}, and suit this one ({head})")
        return failure("migrations", message, "upgrade the gateway")
    message = f"the tables are at {present or 'none'}, this release needs {head}"
    if running:
        return failure("migrations", message, "run `lmaas migrate`")
    return warning("migrations", message, "run `lmaas migrate`; `lmaas serve` does it too")


def _clock(connection: Connection) -> Iterator[Finding]:
    """A finding if this machine's clock and the database's differ."""
    there = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    offset_s = abs((datetime.now(UTC) - there).total_seconds())
    if offset_s > MAX_CLOCK_OFFSET_S:
        yield warning(
            "clock",
            f"the clocks of this machine and of the database differ by {offset_s:.0f} s",
            "synchronise both by NTP: history is ordered by the gateways' clocks",
        )
