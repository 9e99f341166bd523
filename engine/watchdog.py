"""`python -m engine.watchdog`: runs the engine as a child process, and ends when that hangs.

For an engine that no gateway starts. A process that stands still can neither notice that nor end
itself, and what supervises containers only sees whether a process lives. Arguments are those of
`python -m engine`. The exit code is the engine's; after a hang it is that of a failure, so that
what started this process starts it again.
"""

import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from types import FrameType
from typing import Final

import structlog

from engine.errors import StartupFailure
from engine.service.logs import configure_logs
from engine.settings import Settings, read_settings
from engine.silence import BEAT_S, Silence

COMMAND: Final = (sys.executable, "-m", "engine", "--supervised")
EXIT_HUNG: Final = 1
SIGNALLED: Final = 128  # the exit code for a signal is this and its number

log = structlog.get_logger()


class Watchdog:
    """Watches one engine process.

    It is killed if it serves and then gives no sign of life for as long as the settings allow, or
    does not serve within the time of a start.
    """

    def __init__(self, settings: Settings, arguments: Sequence[str] = ()) -> None:
        self._settings = settings
        # The engine ends when this pipe closes: with this process, however that ends.
        self._engine = subprocess.Popen([*COMMAND, *arguments], stdin=subprocess.PIPE)  # noqa: S603

    def pass_on(self, number: int, _: FrameType | None) -> None:
        """Send the engine a signal that this process got."""
        self._engine.send_signal(number)

    def watch(self) -> int:
        """Return when the engine has ended, or was killed since it hung; the exit code."""
        settings = self._settings
        silence = Silence(settings.max_engine_silence_s, settings.max_engine_start_s)
        while not silence.too_long:
            try:
                code = self._engine.wait(BEAT_S)
            except subprocess.TimeoutExpired:
                served = silence.serving
                silence.beat(_status(settings.engine_socket))
                if silence.serving and not served:
                    log.info("engine_serves", pid=self._engine.pid)
            else:
                return code if code >= 0 else SIGNALLED - code
        log.error(
            "engine_silent",
            pid=self._engine.pid,
            beats=silence.missed,
            starting=silence.starting,
        )
        self._engine.kill()
        self._engine.wait()
        return EXIT_HUNG


class _Connection(HTTPConnection):
    """HTTP over a Unix socket, whose path is `host`."""

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.host)


def _status(path: str) -> int | None:
    """The status of the engine's health; None if it does not answer."""
    connection = _Connection(path, timeout=BEAT_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def main() -> int:
    """Run the engine, and return its exit code. A wrong setting is the engine's to report."""
    arguments = sys.argv[1:]
    try:
        settings = read_settings()
    except StartupFailure:
        return subprocess.call([*COMMAND, *arguments])  # noqa: S603
    configure_logs(settings.log_level)
    watchdog = Watchdog(settings, arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, watchdog.pass_on)
    return watchdog.watch()


if __name__ == "__main__":
    sys.exit(main())
