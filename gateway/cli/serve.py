"""`lmaas serve`: runs the gateway and everything it needs until a signal."""

import asyncio
import contextlib
import math
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Final

import click
import uvicorn
import uvloop

from engine.checkpoints.catalogue import DEMO_FOLDER, SMOLLM2
from gateway.api.connections.limits import ConnectionLimits
from gateway.api.connections.protocol import bounded_protocol
from gateway.api.http_metrics import HttpMetrics
from gateway.api.openai.batches.endpoints import ENDPOINTS
from gateway.app import build_app
from gateway.cli.example import introduction
from gateway.cli.start_report import StartReport
from gateway.errors import StartupFailure
from gateway.garbage import search_seldom
from gateway.logs import set_up_logging
from gateway.node import GatewayNode, running_node
from gateway.served_model import ServedModel, served_model
from gateway.server_file import announced, server_url
from gateway.settings import Settings, read_settings
from gateway.tenancy.admin_key import admin_key_file

BACKLOG: Final = 2048
KEEP_ALIVE_S: Final = 75  # longer than clients keep idle connections, so that they close first
CLOSE_GRACE_S: Final = 3  # after the drain, to send final events to clients whose answers were cut
NO_OTHER_MODEL: Final = (
    f"serving the demo model; `lmaas models fetch {SMOLLM2.name}` fetches one that knows English"
)
# After this, a thread that works on a long text lets the event loop go on. Python's default, 5 ms,
# is waited for several times by each request.
SWITCH_INTERVAL_S: Final = 0.001
PRIVATE_UMASK: Final = 0o077  # files are this user's alone, those of the child processes too
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@click.command()
def serve() -> None:
    """Start gateway, database, predictor and engine.

    Runs until Ctrl-C or SIGTERM; running requests may then finish (LMAAS_DRAIN_S).
    """
    settings = read_settings()
    set_up_logging(settings.log_level)
    os.umask(PRIVATE_UMASK)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # until the event loop handles it
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with _listening(settings) as listener, StartReport() as report:
        try:
            served = served_model(settings, report)
            if settings.model is None and served.location == str(DEMO_FOLDER):
                report(NO_OTHER_MODEL)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_serve(settings, served, listener, report))
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


class _Server(uvicorn.Server):
    """uvicorn without its signal handling: the node must stop after the server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `_serve`."""
        yield


async def _serve(
    settings: Settings, served: ServedModel, listener: socket.socket, report: StartReport
) -> None:
    loop = asyncio.get_running_loop()
    starting = asyncio.current_task()
    assert starting is not None
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, starting.cancel)
    async with running_node(settings, served, ENDPOINTS, report) as node:
        server = build_server(settings, node)

        def stop() -> None:
            report("stopping: running requests may finish; repeat to stop at once")
            node.jobs.stop_claiming()
            loop.call_later(0 if server.should_exit else settings.drain_s, node.service.stop)
            server.should_exit = True

        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, stop)
        host, port = listener.getsockname()[:2]
        report.end()
        url = server_url(host, port)
        with announced(settings.data_folder, url):
            report(f"ready on {url}")
            _print_keys(node, url)
            await server.serve([listener])
    report("stopped")


def build_server(settings: Settings, node: GatewayNode) -> uvicorn.Server:
    """The server of a running node. Objects that exist now are no longer searched for garbage."""
    metrics = HttpMetrics(node.service.scheduler.metrics.registry)
    app = build_app(node, metrics)
    search_seldom()
    return _Server(
        uvicorn.Config(
            app,
            http=bounded_protocol(ConnectionLimits.of(settings), metrics),
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(settings.drain_s) + CLOSE_GRACE_S,
            timeout_keep_alive=KEEP_ALIVE_S,
            backlog=BACKLOG,
        )
    )


def _print_keys(node: GatewayNode, url: str) -> None:
    """Print new keys, once, and an example request. Never print a key from the settings."""
    settings = node.settings
    if node.admin_key.is_new:
        path = admin_key_file(settings.data_folder)
        click.echo(f"\nadmin key (kept in {path}): {node.admin_key.secret}")
    if node.demo_key is not None:
        click.echo(introduction(settings, node.served, settings.public_url or url))
        click.echo("`lmaas example` prints this again")
    sys.stdout.flush()
