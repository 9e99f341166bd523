"""`server.json` in the data folder: where the gateway of that folder serves, while it runs.

The gateway holds a lock on the file. A reader that gets the lock knows that the gateway has ended
without removing the file, whatever process has its number now.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from gateway.errors import StartupFailure

FILE: Final = "server.json"
ANY_IPV4: Final = "0.0.0.0"  # noqa: S104  compared with, not bound
ANY_ADDRESS: Final = {ANY_IPV4: "127.0.0.1", "::": "::1"}  # by address to bind: one to connect to


class RunningServer(Struct, frozen=True):
    """A gateway that accepts connections at `url`, and its process."""

    url: str
    pid: int


def server_url(host: str, port: int) -> str:
    """The URL at which clients of this machine reach a server on `host` and `port`."""
    host = ANY_ADDRESS.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def announced(data_folder: Path, url: str) -> Iterator[None]:
    """Keeps the file while the gateway serves. StartupFailure if it cannot be written."""
    path = data_folder / FILE
    unfinished = path.with_name(f"{FILE}.{os.getpid()}")
    try:
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise StartupFailure(f"{path}: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(msgspec.json.encode(RunningServer(url, os.getpid())) + b"\n")
        file.flush()
        unfinished.replace(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def running_server(data_folder: Path) -> RunningServer | None:
    """The gateway that serves with this data folder; None if there is none."""
    try:
        with (data_folder / FILE).open("rb") as file:
            if _is_unlocked(file.fileno()):
                return None
            return msgspec.json.decode(file.read(), type=RunningServer)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _is_unlocked(descriptor: int) -> bool:
    """Whether no process holds the file's lock; closing the descriptor gives it back."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
