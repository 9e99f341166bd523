"""An embedded Postgres whose processes a test stops, continues and kills."""

from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from benchmarks.faults.server import PostgresProcesses
from gateway.database.connection import Database
from gateway.database.embedded import EmbeddedPostgres
from gateway.database.errors import Sessions


class HangingPostgres(PostgresProcesses):
    """A server of a test's own."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self._server = EmbeddedPostgres(data_dir)

    @property
    def url(self) -> str:
        return self._server.url

    def recover(self) -> None:
        """It answers again, whatever happened to it."""
        if self.alive:
            self.resume()
        self._server.start()

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.recover()
        self._server.stop()


@pytest.fixture
def postgres_url(hanging: HangingPostgres) -> str:
    """The other fixtures' database is this one."""
    return hanging.url


@pytest.fixture
def sessions(hanging_database: Database) -> Sessions:
    return hanging_database.sessions
