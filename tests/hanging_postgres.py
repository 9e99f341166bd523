"""An embedded Postgres whose processes a test stops, continues and kills."""

from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import pytest

from gateway.database.connection import Database
from gateway.database.embedded import EmbeddedPostgres
from gateway.database.errors import Sessions


class PostgresProcesses:
    """The server in `<data_dir>/postgres` and its backends, as the operating system sees them."""

    def __init__(self, data_dir: Path) -> None:
        self._pid_file = data_dir / "postgres" / "postmaster.pid"

    @property
    def alive(self) -> bool:
        try:
            return self._postmaster().status() != psutil.STATUS_ZOMBIE
        except (FileNotFoundError, psutil.NoSuchProcess):
            return False

    def suspend(self) -> None:
        """The server hangs: connections stay open, and nothing answers."""
        for process in self._all():
            with suppress(psutil.NoSuchProcess):  # a backend whose client has just left
                process.suspend()

    def resume(self) -> None:
        for process in self._all():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def kill(self) -> None:
        """The server is gone."""
        processes = self._all()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes)

    def _all(self) -> list[psutil.Process]:
        """The server first, so that it starts no backend meanwhile."""
        server = self._postmaster()
        return [server, *server.children(recursive=True)]

    def _postmaster(self) -> psutil.Process:
        return psutil.Process(int(self._pid_file.read_text().split()[0]))


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
