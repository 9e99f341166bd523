"""`lmaas serve`: runs the gateway and everything it needs until a signal."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Final

import click

from engine.checkpoints.catalogue import DEMO_FOLDER, SMOLLM2
from gateway.cli.start_report import StartReport
from gateway.errors import StartupFailure
from gateway.logs import set_up_logging
from gateway.served_model import served_model
from gateway.settings import Settings, read_settings

BACKLOG: Final = 2048
NO_OTHER_MODEL: Final = (
    f"serving the demo model; `lmaas models fetch {SMOLLM2.name}` fetches one that knows English"
)
# After this, a thread that works on a long text lets the event loop go on. Python's default, 5 ms,
# is waited for several times by each request.
SWITCH_INTERVAL_S: Final = 0.001
PRIVATE_UMASK: Final = 0o077  # files are this user's alone, those of the child processes too


@click.command()
def serve() -> None:
    """Start gateway, database, predictor and engine.

    Runs until Ctrl-C or SIGTERM; running requests may then finish (LMAAS_DRAIN_S).
    """
    settings = read_settings()
    set_up_logging(settings.log_level, in_thread=True)
    os.umask(PRIVATE_UMASK)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the event loop handles it
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with _listening(settings) as listener:
        try:
            # Imported now: a wrong setting is reported at once.
            from gateway.cli.server import run_server  # noqa: PLC0415

            with StartReport() as report:
                served = served_model(settings, report)
                if settings.model is None and served.location == str(DEMO_FOLDER):
                    report(NO_OTHER_MODEL)
                run_server(settings, served, listener, report)
        except (asyncio.CancelledError, KeyboardInterrupt):
            click.echo("stopped before it was ready", err=True)


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """The listening socket, bound before anything slow starts."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
            listener.listen(BACKLOG)
        except OSError as error:
            raise StartupFailure(
                f"cannot serve on {settings.host}:{settings.port}: {error.strerror}; "
                "set LMAAS_PORT or LMAAS_HOST to another value"
            ) from error
        yield listener
