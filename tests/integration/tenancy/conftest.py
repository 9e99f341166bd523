"""A proxy to the database that a test can cut."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest

from gateway.database.address import connection_parameters
from gateway.database.connection import Database
from gateway.database.errors import Sessions

SOCKET = ".s.PGSQL.5432"


class DatabaseProxy:
    """A socket in front of the database's own. `cut` drops all connections."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder = folder
        self._target = target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._connect, self.folder / SOCKET)

    async def cut(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()
        (self.folder / SOCKET).unlink(missing_ok=True)
        self._server = None

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(self._target)
        self._writers |= {writer, server_writer}
        await asyncio.gather(
            self._forward(reader, server_writer), self._forward(server_reader, writer)
        )

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
        self._writers.discard(writer)
        writer.close()


@pytest.fixture
async def proxy(postgres_url: str) -> AsyncIterator[DatabaseProxy]:
    target = Path(connection_parameters(postgres_url)["host"]) / SOCKET
    with tempfile.TemporaryDirectory() as folder:
        proxy = DatabaseProxy(Path(folder), target)
        await proxy.start()
        yield proxy
        await proxy.cut()


@pytest.fixture
async def proxied_database(
    proxy: DatabaseProxy, sessions: Sessions, postgres_url: str
) -> AsyncIterator[Database]:
    """The database behind the proxy; `sessions` empties it after the test."""
    del sessions
    name = connection_parameters(postgres_url)["dbname"]
    opened = await Database.open(f"postgresql://postgres@/{name}?host={quote(str(proxy.folder))}")
    yield opened
    await opened.close()
