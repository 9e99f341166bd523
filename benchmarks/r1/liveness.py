"""Asks `/health/live` at fixed times over one connection, in a thread."""

import socket
import threading
from time import perf_counter, sleep
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import numpy as np

from gateway.quantiles import Floats

INTERVAL_S: Final = 0.02
TIMEOUT_S: Final = 60.0
REQUEST: Final = b"GET /health/live HTTP/1.1\r\nHost: gateway\r\n\r\n"
OK: Final = b"HTTP/1.1 200 "
END: Final = b'{"status":"ok"}'


class Liveness:
    """While it is entered, a request is due every `INTERVAL_S`.

    A latency counts from the time at which its request was due: what is late because the one before
    was late counts, too.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._address = parts.hostname or "", parts.port or 80
        self._stopping = threading.Event()
        self._latencies_s: list[float] = []
        self._failures = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    @property
    def latencies_ms(self) -> Floats:
        """The latencies so far, in milliseconds: (n,)."""
        return 1e3 * np.array(self._latencies_s, np.float64)

    @property
    def failures(self) -> int:
        """Requests without a 200 within the timeout."""
        return self._failures

    def _run(self) -> None:
        connection = self._reconnect()
        due_s = perf_counter()
        while not self._stopping.is_set():
            due_s += INTERVAL_S
            sleep(max(0.0, due_s - perf_counter()))
            if connection is None or not _answered(connection):
                connection = self._reconnect(connection)  # it was closed while idle, perhaps
                self._failures += connection is None or not _answered(connection)
            self._latencies_s.append(perf_counter() - due_s)
        if connection is not None:
            connection.close()

    def _reconnect(self, connection: socket.socket | None = None) -> socket.socket | None:
        """A new connection instead of this one; None if it is refused."""
        if connection is not None:
            connection.close()
        try:
            return socket.create_connection(self._address, TIMEOUT_S)
        except OSError:
            return None


def _answered(connection: socket.socket) -> bool:
    """Whether one request is answered with 200."""
    received = b""
    try:
        connection.sendall(REQUEST)
        while not received.endswith(END):
            data = connection.recv(4096)
            received += data
            if not data or not received.startswith(OK[: len(received)]):
                return False
    except OSError:
        return False
    return True
