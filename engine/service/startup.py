"""Answers calls while the engine loads its model, so that a slow start differs from a dead one."""

from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socket import socket
from socketserver import UnixStreamServer
from threading import Thread
from typing import Any, Final
from uuid import uuid4

import msgspec
import structlog

from engine.address import Address
from engine.protocol import Starting

CALL_TIMEOUT_S: Final = 1.0  # calls are answered one at a time
POLL_S: Final = 0.02  # until the end of the answers is noticed

PHASE_EVENT: Final = "engine_starting"  # in the log, at the begin of each phase

log = structlog.get_logger()


class Startup:
    """A start from its listening socket to the serving engine: its `epoch`, and its phases.

    Until `served` every call gets 503 and a `Starting`. StartupFailure if the address is in use.
    """

    def __init__(self, address: Address) -> None:
        self.epoch = uuid4().hex
        self.phase = ""
        self._address = address
        self._listener = address.listen()
        self._server = _Server(self._listener, self)
        self._thread = Thread(
            target=self._server.serve_forever, args=(POLL_S,), name="startup", daemon=True
        )
        self._thread.start()

    def enter(self, phase: str) -> None:
        """A phase begins; its name is for people to read."""
        self.phase = phase
        log.info(PHASE_EVENT, phase=phase)

    def served(self) -> socket:
        """Answer no more; the listening socket, on which the engine serves from now on."""
        self._server.shutdown()
        self._thread.join()
        return self._listener

    def close(self) -> None:
        """Remove the socket."""
        self.served().close()
        self._address.remove()


class _Server(UnixStreamServer):
    """Answers calls on a socket that listens already."""

    def __init__(self, listener: socket, startup: Startup) -> None:
        super().__init__("", _Answer, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.startup = startup

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A caller that does not wait for its answer is no error."""
        log.debug("startup_call_failed")


class _Answer(BaseHTTPRequestHandler):
    """503 and where the start is."""

    server: _Server
    timeout = CALL_TIMEOUT_S

    def do_GET(self) -> None:
        """Answer a call."""
        startup = self.server.startup
        body = msgspec.json.encode(Starting(epoch=startup.epoch, phase=startup.phase))
        self.send_response(HTTPStatus.SERVICE_UNAVAILABLE)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815  the base class's name

    def log_message(self, *_: Any) -> None:
        """Log nothing: these calls are a supervisor's."""
