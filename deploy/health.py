"""`health.py URL | SOCKET`: exit status 0 if a gateway or an engine reports that it is healthy.

For HEALTHCHECK, which runs it every few seconds, so it only uses the standard library.
"""

import socket
import sys
from http.client import HTTPConnection
from urllib.parse import urlsplit

TIMEOUT_S = 2.5


class _SocketConnection(HTTPConnection):
    """HTTP over a Unix socket; `host` is its path."""

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.host)


def ask(place: str) -> tuple[int, str]:
    """Status and body of a URL, or of /health on a socket's path. OSError without an answer."""
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
