"""The Unix socket the engine serves on."""

import os
import socket
import stat
from pathlib import Path
from typing import Final

from engine.errors import StartupFailure

LONGEST_PATH: Final = 107  # bytes in sockaddr_un, less the closing zero
VARIABLE: Final = "LMAAS_ENGINE_SOCKET"
PRIVATE: Final = 0o177  # umask: the owner alone may connect


class Address:
    """A path to listen on; nobody else's socket is ever taken or removed."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._inode: int | None = None

    def check(self) -> None:
        """Remove a stale socket file. StartupFailure where this path cannot be listened on."""
        if len(os.fsencode(self.path)) > LONGEST_PATH:
            raise StartupFailure(f"{VARIABLE}: {self.path} is longer than {LONGEST_PATH} bytes")
        if not self.path.parent.is_dir():
            raise StartupFailure(f"{VARIABLE}: there is no folder {self.path.parent}")
        if not self.path.exists():
            return
        if not stat.S_ISSOCK(self.path.stat().st_mode):
            raise StartupFailure(f"{VARIABLE}: {self.path} exists and is no socket")
        if _is_live(self.path):
            raise StartupFailure(f"{VARIABLE}: another process serves on {self.path}")
        self.path.unlink(missing_ok=True)

    def listen(self) -> socket.socket:
        """The socket, open to this user alone. StartupFailure where the system says no."""
        self.check()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(PRIVATE)
        try:
            listener.bind(str(self.path))
            self._inode = self.path.stat().st_ino
            listener.listen()
        except OSError as error:
            listener.close()
            raise StartupFailure(f"{VARIABLE}: {self.path}: {error.strerror}") from error
        finally:
            os.umask(before)
        return listener

    def remove(self) -> None:
        """Remove the socket file if it is still the one made by `listen`."""
        try:
            if self._inode == self.path.stat().st_ino:
                self.path.unlink()
        except FileNotFoundError:
            return


def _is_live(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
        return True
