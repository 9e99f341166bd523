"""A gateway in this process, on a thread and a uvloop of its own as in production.

So a test can measure what each turn of its event loop costs.
"""

import asyncio
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import uvloop
from prometheus_client import CollectorRegistry

from gateway.api.http_metrics import HttpMetrics
from gateway.app import build_app
from gateway.garbage import search_seldom
from gateway.node import GatewayNode, running_node
from gateway.served_model import served_model
from gateway.server import Front, build_server
from gateway.settings import read_settings
from tests.conftest import PATIENCE_S

API_KEY = "sk-lmaas-tests-of-the-loop"
ADMIN_KEY = "sk-lmaas-admin-of-the-loop"


WORK = 6_000  # additions to lists in a dict
TRIALS = 5


def unit_s() -> float:
    """CPU seconds of a fixed amount of work in Python, on a fast processor 1 ms: its speed now."""

    def trial_s() -> float:
        began = time.thread_time()
        found: dict[int, list[int]] = {}
        for number in range(WORK):
            found.setdefault(number % 97, []).append(number)
        return time.thread_time() - began

    return min(trial_s() for _ in range(TRIALS))


class TurnMeter:
    """CPU time of the costliest turn of an event loop: all callbacks between two polls for events.

    In units of work, as the processor does them just before and after: it grows neither when the
    machine is busy nor on a slower one. While it measures, the loop never sleeps.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._measuring = False
        self._stopped = threading.Event()
        self._last = self._longest_s = self._unit_s = 0.0

    @property
    def longest(self) -> float:
        """The costliest turn's units of work."""
        return self._longest_s / self._unit_s

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """From any thread but the loop's."""
        started = threading.Event()

        def start() -> None:
            self._measuring, self._longest_s = True, 0.0
            self._stopped.clear()
            self._unit_s = unit_s()
            self._last = time.thread_time()
            self._loop.call_soon(self._turn)
            started.set()

        self._loop.call_soon_threadsafe(start)
        assert started.wait(PATIENCE_S)
        try:
            yield
        finally:
            self._measuring = False
            assert self._stopped.wait(PATIENCE_S)  # the turn of the last answer has ended

    def _turn(self) -> None:
        now = time.thread_time()
        self._longest_s = max(self._longest_s, now - self._last)
        self._last = now
        if self._measuring:
            self._loop.call_soon(self._turn)
        else:
            self._unit_s = max(self._unit_s, unit_s())
            self._stopped.set()


class LocalGateway:
    """The running gateway, its loop, and a client in the test's own loop."""

    def __init__(self, node: GatewayNode, loop: asyncio.AbstractEventLoop, url: str) -> None:
        self.node = node
        self.loop = loop
        self.url = url
        self.meter = TurnMeter(loop)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return once the condition holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.01)

    async def waiting(self, requests: int) -> None:
        """Return once this many requests are queued."""
        await self.until(lambda: len(self.node.service.scheduler.table.waiting) == requests)

    def client(self, key: str = API_KEY) -> httpx.AsyncClient:
        bearer = {"Authorization": f"Bearer {key}"}
        return httpx.AsyncClient(base_url=self.url, headers=bearer, timeout=PATIENCE_S)

    def admin(self) -> httpx.AsyncClient:
        return self.client(ADMIN_KEY)

    async def tenant(self, name: str) -> str:
        """The API key of a new tenant."""
        async with self.admin() as admin:

            async def make(path: str, made: str) -> dict[str, Any]:
                answer = await admin.post(path, json={"name": made})
                return dict(answer.raise_for_status().json())

            tenant = await make("/admin/tenants", name)
            app = await make(f"/admin/tenants/{tenant['id']}/apps", "app")
            return str((await make(f"/admin/apps/{app['id']}/keys", "key"))["secret"])


async def _serve(
    environment: dict[str, str],
    ready: Callable[[LocalGateway], None],
    stopping: asyncio.Event,
) -> None:
    settings = read_settings(environment)
    registry = CollectorRegistry()
    metrics = HttpMetrics(registry)
    front = Front(settings, metrics, str)
    started = running_node(settings, served_model(settings), {}, lambda _: None, registry)
    async with started as node:
        front.app = build_app(node, metrics).app
        search_seldom()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = build_server(settings, front, metrics)
            serving = asyncio.create_task(server.serve([listener]))
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            ready(LocalGateway(node, asyncio.get_running_loop(), url))
            await stopping.wait()
            server.should_exit = True
            await serving


def local_gateway(**settings: str) -> Iterator[LocalGateway]:
    folder = tempfile.mkdtemp(prefix="lmaas-loop-")  # short enough for sockets
    environment = {
        "LMAAS_DATA_DIR": folder,
        "LMAAS_API_KEY": API_KEY,
        "LMAAS_ADMIN_KEY": ADMIN_KEY,
        "LMAAS_ENGINE_THREADS": "1",
        "LMAAS_AUTOMATIC_TRAINING": "false",
        "LMAAS_KEY_LOOKUP_S": "30",
        "LMAAS_DRAIN_S": "1",
        **settings,
    }
    found: list[LocalGateway] = []
    started = threading.Event()
    stops: list[asyncio.Event] = []

    def ready(gateway: LocalGateway) -> None:
        found.append(gateway)
        started.set()

    def run() -> None:
        async def serve() -> None:
            stops.append(asyncio.Event())
            await _serve(environment, ready, stops[0])

        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve())
        finally:
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert started.wait(PATIENCE_S)
    try:
        yield found[0]
    finally:
        found[0].loop.call_soon_threadsafe(stops[0].set)
        thread.join()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def gateway() -> Iterator[LocalGateway]:
    yield from local_gateway()
