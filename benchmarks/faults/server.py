"""A PostgreSQL of the operator's own, which the gateway neither starts nor supervises."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep
from typing import Final

import psutil

from gateway.database.embedded import EmbeddedPostgres

AWAY_S: Final = 10.0  # from a fault to its end: what supervises a server takes as long


class OwnServer:
    """A server in a folder; each fault returns when it is over."""

    def __init__(self, folder: Path) -> None:
        self._server = EmbeddedPostgres(folder)
        self._pid_file = folder / "postgres" / "postmaster.pid"
        self._server.start()

    @property
    def url(self) -> str:
        """The address to connect to."""
        return self._server.url

    def kill(self) -> None:
        """Kill it as `kill -9` does; it is started again after a while."""
        family = self._family()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family)
        sleep(AWAY_S)
        self._server.start()

    def suspend(self) -> None:
        """Stop it as `kill -STOP` does, for a while: connections stay open and nothing answers."""
        family = self._family()
        for process in family:
            with suppress(psutil.NoSuchProcess):  # a backend that has just ended
                process.suspend()
        sleep(AWAY_S)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def restart(self) -> None:
        """Stop it as an operator does, which ends all connections, and start it again."""
        self._server.stop()
        self._server.start()

    def close(self) -> None:
        """Stop it."""
        self._server.stop()

    def _family(self) -> list[psutil.Process]:
        """The server first, so that it starts no backend meanwhile."""
        server = psutil.Process(int(self._pid_file.read_text().split()[0]))
        return [server, *server.children(recursive=True)]


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """A server in a temporary folder, stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="lmaas-server-") as folder:
        server = OwnServer(Path(folder))
        try:
            yield server
        finally:
            server.close()
