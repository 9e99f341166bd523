"""What `lmaas serve` runs: the HTTP server, and the node behind it."""

import asyncio
import signal
import socket
import sys
from signal import SIGTERM
from typing import Final

import click
import uvloop
from prometheus_client import CollectorRegistry

from gateway.api.http_metrics import HttpMetrics
from gateway.api.openai.batches.endpoints import ENDPOINTS
from gateway.app import build_app
from gateway.cli.example import introduction
from gateway.cli.start_report import StartReport
from gateway.garbage import search_seldom
from gateway.node import GatewayNode, running_node
from gateway.served_model import ServedModel
from gateway.server import Front, Server, build_server
from gateway.server_file import announced, server_url
from gateway.settings import Settings
from gateway.tenancy.admin_key import admin_key_file

STOP_SIGNALS: Final = (signal.SIGINT, SIGTERM)


def run_server(
    settings: Settings, served: ServedModel, listener: socket.socket, report: StartReport
) -> None:
    """Serve on a bound socket until a signal. StartupFailure if a part does not start.

    CancelledError or KeyboardInterrupt if the signal comes before it is ready.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, served, listener, report))


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
            front.app, dashboard = build_app(node, metrics)
            dashboard.start()
            search_seldom()
            for number in STOP_SIGNALS:
                loop.add_signal_handler(number, _stop, number, node, server, report)
            host, port = listener.getsockname()[:2]
            report.end()
            url = server_url(host, port)
            with announced(settings.data_folder, url):
                report(f"ready on {url}")
                _print_keys(node, url)
                try:
                    await serving
                    if node.service.stopping:  # else the server ended by itself
                        await node.jobs.drain(settings.drain_s)
                finally:
                    await dashboard.close()
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
    reached_at = settings.public_url or url
    if node.admin_key.is_new:
        path = admin_key_file(settings.data_folder)
        click.echo(f"\nadmin key (kept in {path}): {node.admin_key.secret}")
        click.echo(f"sign in with it in a browser: {reached_at.rstrip('/')}/")
    if node.demo_key is not None:
        click.echo(introduction(settings, node.served, reached_at))
        click.echo("`lmaas example` prints this again")
    sys.stdout.flush()
