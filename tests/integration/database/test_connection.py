"""Valid and invalid database addresses, against a real server."""

import asyncio
import socket
from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from sqlalchemy import Date, DateTime, literal, select, text

from gateway.database.address import connection_parameters
from gateway.database.connection import Database
from gateway.database.embedded import EmbeddedPostgres
from gateway.database.errors import Sessions, transaction, translated
from gateway.database.far_times import EARLIEST, LATEST
from gateway.errors import Conflict, DatabaseLost, StartupFailure
from models import AuditEntry, Tenant


async def reached(database: Database) -> bool:
    async with transaction(database.sessions) as session:
        return await session.scalar(text("SELECT 1")) == 1


@pytest.mark.parametrize(
    "form",
    [
        "postgres://postgres@/postgres?host={folder}",
        "postgresql://postgres@/postgres?host={folder}",
        "postgresql+psycopg://postgres@/postgres?host={folder}",
        "postgresql://postgres@{folder}/postgres",
        "host={plain} user=postgres dbname=postgres",
    ],
)
async def test_common_forms_of_an_address_connect(form: str, postgres: EmbeddedPostgres) -> None:
    folder = str(connection_parameters(postgres.url)["host"])
    database = await Database.open(form.format(folder=quote(folder, safe=""), plain=folder))
    assert await reached(database)
    await database.close()


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("infinity", LATEST),
        ("12026-01-01", LATEST),
        ("-infinity", EARLIEST),
        ("0044-03-15 BC", EARLIEST),
        ("2026-01-01 12:00Z", datetime(2026, 1, 1, 12, tzinfo=UTC)),
    ],
)
async def test_time_that_python_cannot_hold_is_read_as_the_nearest(
    written: str, read: datetime, database: Database
) -> None:
    times = select(literal(written).cast(DateTime(timezone=True)), literal(written).cast(Date))
    async with transaction(database.sessions) as session:
        assert (await session.execute(times)).one() == (read, read.date())


@pytest.mark.parametrize(
    "url",
    ["mysql://user:pass@host/db", "postgresql://user:pass@host/db?nonsense=1", "user:pass", "://x"],
)
async def test_invalid_address_is_refused_with_the_accepted_form(url: str) -> None:
    with pytest.raises(
        StartupFailure, match=r"DATABASE_URL.*accepted is postgresql://user:password@host"
    ):
        await Database.open(url)


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "no-such-host.invalid", "127.0.0.1:x{port}"])
async def test_failure_to_connect_is_one_line_without_the_password(host: str) -> None:
    with socket.socket() as closed:  # bound and not listening: refuses
        closed.bind(("127.0.0.1", 0))
        url = f"postgresql://me:hush-hush@{host.format(port=closed.getsockname()[1])}/db"
        with pytest.raises(StartupFailure, match=r"^DATABASE_URL") as raised:
            await Database.open(url)
    assert "\n" not in raised.value.message
    assert "hush" not in raised.value.message


async def test_unknown_database_is_named(postgres: EmbeddedPostgres) -> None:
    url = postgres.url.replace("/postgres?", "/elsewhere?")
    with pytest.raises(StartupFailure, match='database "elsewhere" does not exist'):
        await Database.open(url)


async def test_old_server_is_refused_with_its_version(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.database.connection.MIN_SERVER_VERSION", 190_000)
    with pytest.raises(StartupFailure, match="PostgreSQL 18; 19 or newer is needed"):
        await Database.open(postgres.url)


async def test_silent_peer_times_out() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(StartupFailure, match=r"cannot connect: .*timeout"):
            await Database.open(f"postgresql://me@127.0.0.1:{port}/db?connect_timeout=2")


async def test_taken_name_is_a_conflict_with_the_services_message(sessions: Sessions) -> None:
    async with transaction(sessions) as session:
        session.add_all(
            [
                Tenant(name="acme"),
                AuditEntry(actor="admin", action="tenant.created", subject="acme"),
            ]
        )
    with pytest.raises(Conflict, match="acme is taken"):
        async with transaction(sessions, conflict="acme is taken") as session:
            session.add(Tenant(name="acme"))


async def test_ended_connection_is_database_lost_and_the_pool_recovers(
    database: Database, sessions: Sessions
) -> None:
    end = text("SELECT pg_terminate_backend(pg_backend_pid())")
    with pytest.raises(DatabaseLost):
        async with transaction(sessions) as session:
            await session.execute(end)
    assert await reached(database)


async def test_invalid_statement_is_not_database_lost(sessions: Sessions) -> None:
    with pytest.raises(Exception, match="does not exist") as raised, translated():
        async with sessions() as session:
            await session.execute(text("SELECT nothing FROM nowhere"))
    assert not isinstance(raised.value, DatabaseLost)
