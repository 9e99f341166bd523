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


class PostgresProcesses:
    """The server in `<data_dir>/postgres` and its backends, as the operating system sees them."""

    def __init__(self, data_dir: Path) -> None:
        self._pid_file = data_dir / "postgres" / "postmaster.pid"

    @property
    def alive(self) -> bool:
        """Whether the server runs, or is suspended."""
        try:
            return bool(self._postmaster().status() != psutil.STATUS_ZOMBIE)
        except (FileNotFoundError, psutil.NoSuchProcess):
            return False

    def suspend(self) -> None:
        """Stop them as `kill -STOP` does: connections stay open, and nothing answers."""
        for process in self._all():
            with suppress(psutil.NoSuchProcess):  # a backend whose client has just left
                process.suspend()

    def resume(self) -> None:
        """Let them go on."""
        for process in self._all():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def kill(self) -> None:
        """Kill them as `kill -9` does."""
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


class OwnServer:
    """A server in a folder; each fault returns when it is over."""

    def __init__(self, folder: Path) -> None:
        self._server = EmbeddedPostgres(folder)
        self._processes = PostgresProcesses(folder)
        self._server.start()

    @property
    def url(self) -> str:
        """The address to connect to."""
        return self._server.url

    def kill(self) -> None:
        """Kill it; it is started again after a while."""
        self._processes.kill()
        sleep(AWAY_S)
        self._server.start()

    def suspend(self) -> None:
        """Suspend it for a while."""
        self._processes.suspend()
        sleep(AWAY_S)
        self._processes.resume()

    def restart(self) -> None:
        """Stop it as an operator does, which ends all connections, and start it again."""
        self._server.stop()
        self._server.start()

    def close(self) -> None:
        """Stop it."""
        self._server.stop()


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """A server in a temporary folder, stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="lmaas-server-") as folder:
        server = OwnServer(Path(folder))
        try:
            yield server
        finally:
            server.close()
