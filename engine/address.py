"""The Unix socket the engine serves on."""

import os
import socket
import stat
from pathlib import Path
from typing import Final

from engine.errors import StartupFailure

MAX_PATH_BYTES: Final = 107  # bytes in sockaddr_un without the terminating zero
SETTING: Final = "LMAAS_ENGINE_SOCKET"
PRIVATE_UMASK: Final = 0o177  # only the owner may connect


class Address:
    """A path to listen on. Never takes over or removes the socket of another process."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._inode: int | None = None

    def check(self) -> None:
        """Remove a stale socket file. StartupFailure if the path cannot be listened on."""
        if len(os.fsencode(self.path)) > MAX_PATH_BYTES:
            raise StartupFailure(f"{SETTING}: {self.path} is longer than {MAX_PATH_BYTES} bytes")
        if not self.path.parent.is_dir():
            raise StartupFailure(f"{SETTING}: there is no folder {self.path.parent}")
        if not self.path.exists():
            return
        if not stat.S_ISSOCK(self.path.stat().st_mode):
            raise StartupFailure(f"{SETTING}: {self.path} exists and is not a socket")
        if _is_live(self.path):
            raise StartupFailure(f"{SETTING}: another process serves on {self.path}")
        self.path.unlink(missing_ok=True)

    def listen(self) -> socket.socket:
        """Open the socket, accessible to this user only. StartupFailure if the system refuses."""
        self.check()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        earlier_umask = os.umask(PRIVATE_UMASK)
        try:
            listener.bind(str(self.path))
            self._inode = self.path.stat().st_ino
            listener.listen()
        except OSError as error:
            listener.close()
            raise StartupFailure(f"{SETTING}: {self.path}: {error.strerror}") from error
        finally:
            os.umask(earlier_umask)
        return listener

    def remove(self) -> None:
        """Remove the socket file if it is still the one that `listen` created."""
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
