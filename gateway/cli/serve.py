"""`lmaas serve`: runs the gateway and everything it needs until a signal."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator
from signal import SIGTERM
from typing import Final

import click
import uvloop
from prometheus_client import CollectorRegistry

from engine.checkpoints.catalogue import DEMO_FOLDER, SMOLLM2
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
from gateway.server import BACKLOG, Front, Server, build_server
from gateway.server_file import announced, server_url
from gateway.settings import Settings, read_settings
from gateway.tenancy.admin_key import admin_key_file

NO_OTHER_MODEL: Final = (
    f"serving the demo model; `lmaas models fetch {SMOLLM2.name}` fetches one that knows English"
)
# After this, a thread that works on a long text lets the event loop go on. Python's default, 5 ms,
# is waited for several times by each request.
SWITCH_INTERVAL_S: Final = 0.001
PRIVATE_UMASK: Final = 0o077  # files are this user's alone, those of the child processes too
STOP_SIGNALS: Final = (signal.SIGINT, SIGTERM)


@click.command()
def serve() -> None:
    """Start gateway, database, predictor and engine.

    Runs until Ctrl-C or SIGTERM; running requests may then finish (LMAAS_DRAIN_S).
    """
    settings = read_settings()
    set_up_logging(settings.log_level)
    os.umask(PRIVATE_UMASK)
    signal.signal(SIGTERM, signal.default_int_handler)  # until the event loop handles it
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


async def _serve(
    settings: Settings, served: ServedModel, listener: socket.socket, report: StartReport
) -> None:
    loop = asyncio.get_running_loop()
    starting = asyncio.current_task()
    assert starting is not None
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, starting.cancel)
    registry = CollectorRegistry()
    metrics = HttpMetrics(registry)
    front = Front(settings, metrics, lambda: report.line)
    server = build_server(settings, front, metrics)
    serving = asyncio.create_task(server.serve([listener]), name="server")
    try:
        async with running_node(settings, served, ENDPOINTS, report, registry) as node:
            front.app = build_app(node, metrics)
            search_seldom()
            for number in STOP_SIGNALS:
                loop.add_signal_handler(number, _stop, number, node, server, report)
            host, port = listener.getsockname()[:2]
            report.end()
            url = server_url(host, port)
            with announced(settings.data_folder, url):
                report(f"ready on {url}")
                _print_keys(node, url)
                await serving
    finally:
        server.should_exit = True
        await serving
    report("stopped")


def _stop(number: int, node: GatewayNode, server: Server, report: StartReport) -> None:
    """Say that the gateway stops; then close the port, and end what still runs after the drain."""
    again, settings, loop = node.service.stopping, node.settings, asyncio.get_running_loop()
    report("stopping: running requests may finish; repeat to stop at once")
    node.service.stopping = True
    node.jobs.stop_claiming()

    def close() -> None:
        server.should_exit = True
        loop.call_later(0 if again else settings.drain_s, node.service.stop)

    # Ctrl-C comes from a person at a terminal: no load balancer has to notice first.
    loop.call_later(settings.stop_delay_s if number == SIGTERM and not again else 0, close)


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
