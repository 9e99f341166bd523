"""Files while the database hangs: an answer in time, and nothing half done."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from structlog.testing import capture_logs

from gateway.database.errors import CONNECTION_S, Sessions, transaction
from gateway.errors import DatabaseLost
from gateway.files.chunks import CHUNK_BYTES
from gateway.files.store import FileStore
from gateway.files.sweeper import FileSweeper
from gateway.files.upload import DISCARD_S
from models import StoredFile, Tenant
from models.base import new_id
from tests.conftest import PATIENCE_S, Builder
from tests.hanging_postgres import HangingPostgres, postgres_url, sessions
from tests.integration.files.conftest import Put, owner_of
from tests.integration.files.test_routes import END, FILE, FORM, PURPOSE, UNKNOWN, part

fixtures = (postgres_url, sessions)
MARGIN_S = 20.0  # for a busy machine; a query that hangs takes for ever


class UniqueNames(Builder):
    """Its tenants have names of their own: the database is not emptied."""

    async def tenant(self, name: str | None = None) -> Tenant:
        return await super().tenant(name or f"tenant {new_id()}")


@pytest.fixture
def build(sessions: Sessions) -> Builder:
    return UniqueNames(sessions)


def assert_lost(answer: httpx.Response) -> None:
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "database_unavailable")
    assert int(answer.headers["retry-after"]) >= 1


async def test_every_route_answers_in_time(
    client: httpx.AsyncClient, suspend: Callable[[], None]
) -> None:
    assert (await client.get("/v1/files")).json()["data"] == []
    suspend()
    began = time.monotonic()
    path = f"/v1/files/{UNKNOWN}"
    answers = await asyncio.gather(
        client.post("/v1/files", content=PURPOSE + FILE + END, headers=FORM),
        client.get("/v1/files"),
        client.get(path),
        client.get(f"{path}/content"),
        client.delete(path),
    )
    assert time.monotonic() - began < CONNECTION_S + DISCARD_S + MARGIN_S
    for answer in answers:
        assert_lost(answer)


async def test_upload_that_loses_the_database_leaves_no_file(
    client: httpx.AsyncClient, hanging: HangingPostgres, suspend: Callable[[], None]
) -> None:
    assert (await client.get("/v1/files")).json()["data"] == []

    async def body() -> AsyncIterator[bytes]:
        yield PURPOSE + part("file", b"", "x")[:-2] + b"x" * CHUNK_BYTES
        suspend()
        yield b"x" * CHUNK_BYTES
        yield b"\r\n" + END

    assert_lost(await client.post("/v1/files", content=body(), headers=FORM))
    hanging.recover()
    async with asyncio.timeout(PATIENCE_S):
        while (listed := await client.get("/v1/files")).status_code != 200:
            assert_lost(listed)
    assert listed.json()["data"] == []


async def test_read_that_loses_the_database_ends_in_time(
    store: FileStore, put: Put, build: Builder, suspend: Callable[[], None]
) -> None:
    file = await put(owner_of(await build.tenant()), b"x" * (2 * CHUNK_BYTES))
    chunks = store.read(file)
    assert len(await anext(chunks)) == CHUNK_BYTES
    suspend()
    with pytest.raises(DatabaseLost):
        await anext(chunks)


async def test_sweeper_goes_on_after_the_database_was_away(
    *, store: FileStore, put: Put, build: Builder, sessions: Sessions, hanging: HangingPostgres
) -> None:
    owner = owner_of(await build.tenant())
    file = await put(owner)
    await store.delete(owner.tenant_id, file.id)
    sweeper = FileSweeper(sessions)
    hanging.kill()
    with capture_logs() as logs:
        sweeper.start()
        async with asyncio.timeout(PATIENCE_S):
            while "sweep_delayed" not in {entry["event"] for entry in logs}:
                await asyncio.sleep(0.01)
    hanging.recover()
    async with asyncio.timeout(PATIENCE_S):
        while await stored(sessions, file):
            sweeper.wake()
            await asyncio.sleep(0.05)
    await sweeper.close()


async def stored(sessions: Sessions, file: StoredFile) -> bool:
    """Whether the file's row is there still, or cannot be known yet."""
    try:
        async with transaction(sessions) as session:
            return await session.get(StoredFile, file.id) is not None
    except DatabaseLost:
        return True
