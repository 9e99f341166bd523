"""`health.py URL | SOCKET`: exit code 0 if a gateway or an engine says that it is well.

For HEALTHCHECK, so standard library alone: it runs every few seconds.
"""

import socket
import sys
from http.client import HTTPConnection
from urllib.parse import urlsplit

TIMEOUT_S = 2.5


class _SocketConnection(HTTPConnection):
    """HTTP to the server on a Unix socket's path."""

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.host)


def ask(place: str) -> tuple[int, str]:
    """Status and body of a URL, or of /health on the socket at a path. OSError if none answers."""
    url = urlsplit(place)
    connection = (
        HTTPConnection(url.netloc, timeout=TIMEOUT_S)
        if url.scheme == "http"
        else _SocketConnection(place, timeout=TIMEOUT_S)
    )
    connection.request("GET", url.path if url.scheme == "http" else "/health")
    response = connection.getresponse()
    return response.status, response.read().decode()


if __name__ == "__main__":
    try:
        status, body = ask(sys.argv[1])
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {error}")
    print(body)  # noqa: T201  `docker inspect` shows it
    sys.exit(status != 200)  # noqa: PLR2004
