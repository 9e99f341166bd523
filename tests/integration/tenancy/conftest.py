"""A line to the database that a test can cut."""

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


class Line:
    """A socket in front of the database's own. Cut, it drops whoever is connected."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.folder = folder
        self._target = target
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()

    async def mend(self) -> None:
        self._server = await asyncio.start_unix_server(self._join, self.folder / SOCKET)

    async def cut(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for end in list(self._ends):
            end.transport.abort()
        await self._server.wait_closed()
        (self.folder / SOCKET).unlink(missing_ok=True)
        self._server = None

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self._target)
        self._ends |= {writer, far_writer}
        await asyncio.gather(self._carry(reader, far_writer), self._carry(far_reader, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
        self._ends.discard(writer)
        writer.close()


@pytest.fixture
async def line(postgres_url: str) -> AsyncIterator[Line]:
    target = Path(connection_parameters(postgres_url)["host"]) / SOCKET
    with tempfile.TemporaryDirectory() as folder:
        line = Line(Path(folder), target)
        await line.mend()
        yield line
        await line.cut()


@pytest.fixture
async def distant(line: Line, sessions: Sessions, postgres_url: str) -> AsyncIterator[Database]:
    """The database at the other end of the line, emptied after the test by `sessions`."""
    del sessions
    name = connection_parameters(postgres_url)["dbname"]
    opened = await Database.open(f"postgresql://postgres@/{name}?host={quote(str(line.folder))}")
    yield opened
    await opened.close()
