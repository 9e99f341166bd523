"""The server of `lmaas serve`: a running node and the HTTP server in front of it."""

import asyncio
import contextlib
import math
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Final

import click
import uvicorn
import uvloop

from gateway.api.connections.limits import ConnectionLimits
from gateway.api.connections.protocol import bounded_protocol
from gateway.api.http_metrics import HttpMetrics
from gateway.api.openai.batches.endpoints import ENDPOINTS
from gateway.app import build_app
from gateway.cli.example import introduction
from gateway.cli.start_report import StartReport
from gateway.garbage import search_seldom
from gateway.node import GatewayNode, running_node
from gateway.served_model import ServedModel
from gateway.server_file import announced, server_url
from gateway.settings import Settings
from gateway.tenancy.admin_key import admin_key_file

KEEP_ALIVE_S: Final = 75  # longer than clients keep idle connections, so that they close first
CLOSE_GRACE_S: Final = 3  # after the drain, to send final events to clients whose answers were cut
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


def run_server(
    settings: Settings, served: ServedModel, listener: socket.socket, report: StartReport
) -> None:
    """Serve on a bound socket until a signal. StartupFailure if a part does not start.

    CancelledError or KeyboardInterrupt if the signal comes before it is ready.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, served, listener, report))


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
