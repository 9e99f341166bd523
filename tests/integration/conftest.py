"""A Postgres that hangs, with connections to it."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.pool import QueuePool

from gateway.database import errors
from gateway.database.connection import Database
from gateway.database.migration import migrate
from tests.conftest import EMPTY, PATIENCE_S
from tests.hanging_postgres import HangingPostgres

SHORT_WAIT_S = 1.0  # the whole wait is shown end to end


def checked_out(database: Database) -> int:
    """The connections that are in use."""
    pool = database.engine.pool
    assert isinstance(pool, QueuePool)
    return pool.checkedout()


@pytest.fixture(scope="session")
def hanging() -> Iterator[HangingPostgres]:
    """A migrated server."""
    folder = Path(tempfile.mkdtemp(prefix="lmaas-hang-"))  # a short path: a socket lies in it
    with HangingPostgres(folder) as server:
        migrate(server.url)
        yield server
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def suspend(hanging: HangingPostgres, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets the server hang. From then on, the wait for a connection is SHORT_WAIT_S."""

    def suspend() -> None:
        hanging.suspend()
        monkeypatch.setattr(errors, "CONNECTION_S", SHORT_WAIT_S)

    return suspend


@pytest.fixture
async def hanging_database(hanging: HangingPostgres) -> AsyncIterator[Database]:
    """Connections to it; after the test none is in use, it answers again, and it is empty."""
    opened = await Database.open(hanging.url)
    yield opened
    hanging.recover()
    async with asyncio.timeout(PATIENCE_S):
        while checked_out(opened):
            await asyncio.sleep(0.01)
    async with opened.engine.begin() as connection:
        await connection.execute(text(EMPTY))
    await opened.close()
