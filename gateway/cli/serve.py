"""`lmaas serve`: runs the gateway and everything it needs until a signal."""

import asyncio
import contextlib
import gc
import math
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Final

import click
import uvicorn
import uvloop

from gateway.api.connections.limits import ConnectionLimits
from gateway.api.connections.protocol import bounded_protocol
from gateway.app import build_app
from gateway.errors import StartupFailure
from gateway.logs import set_up_logging
from gateway.node import GatewayNode, running_node
from gateway.settings import Settings, read_settings

BACKLOG: Final = 2048
KEEP_ALIVE_S: Final = 75  # longer than clients keep idle connections, so that they close first
CLOSE_GRACE_S: Final = 3  # after the drain, to send final events to clients whose answers were cut
# After this, a thread that works on a long text lets the event loop go on. Python's default, 5 ms,
# is waited for several times by each request.
SWITCH_INTERVAL_S: Final = 0.001
STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@click.command()
def serve() -> None:
    """Start gateway, database, predictor and engine.

    Runs until Ctrl-C or SIGTERM; running requests may then finish (LMAAS_DRAIN_S).
    """
    settings = read_settings()
    set_up_logging(settings.log_level)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with _listening(settings) as listener:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_serve(settings, listener))
        except asyncio.CancelledError:
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


async def _serve(settings: Settings, listener: socket.socket) -> None:
    began = time.monotonic()

    def report(line: str) -> None:
        click.echo(f"{time.monotonic() - began:6.1f} s  {line}", err=True)

    loop = asyncio.get_running_loop()
    starting = asyncio.current_task()
    assert starting is not None
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, starting.cancel)
    async with running_node(settings, report) as node:
        server = build_server(settings, node)

        def stop() -> None:
            report("stopping: running requests may finish; repeat to stop at once")
            loop.call_later(0 if server.should_exit else settings.drain_s, node.service.stop)
            server.should_exit = True

        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, stop)
        host, port = listener.getsockname()[:2]
        report(f"ready on http://{host}:{port}")
        _print_keys(node, f"http://{host}:{port}")
        await server.serve([listener])
    report("stopped")


def build_server(settings: Settings, node: GatewayNode) -> uvicorn.Server:
    """The server of a running node. Objects that exist now are no longer searched for garbage.

    They are 200,000 of libraries and routes, and to search them takes 0.1 s of every full search.
    """
    app = build_app(node)
    gc.collect()
    gc.freeze()
    return _Server(
        uvicorn.Config(
            app,
            http=bounded_protocol(ConnectionLimits.of(settings)),
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
    if node.admin_key.is_new:
        click.echo(
            f"\nadmin key (kept in {node.settings.data_dir}/admin_key): {node.admin_key.secret}"
        )
    if node.demo_key is None:
        return
    given = node.settings.api_key is not None
    key = "$LMAAS_API_KEY" if given else node.demo_key
    if not given:
        click.echo(f"API key of the demo tenant (shown once): {key}\n")
    click.echo(
        f"curl {url}/v1/chat/completions \\\n"
        f"  -H \"Authorization: Bearer {key}\" -H 'Content-Type: application/json' \\\n"
        f"""  -d '{{"model": "{node.service.model}", "temperature": 0, "messages": [\n"""
        '       {"role": "system", "content": "Spell out every word."},\n'
        """       {"role": "user", "content": "brave queen"}]}'\n"""
    )
    sys.stdout.flush()
