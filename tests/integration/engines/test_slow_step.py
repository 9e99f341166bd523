"""The engine client and a hanging engine, imitated by a small server."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvicorn
from structlog.testing import capture_logs

from engine.protocol import EngineInfo, Event, Heartbeat, Hello, KvState, Starting, Step
from gateway.engines.colocated import ColocatedEngine
from tests.conftest import PATIENCE_S

KV = KvState(pages=8, free=8, page_tokens=16)
INFO = EngineInfo("epoch", "model", 128, 100, [], KV, "cpu", "float32")


class HangingEngine:
    """Sends the events that a test queues."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Event | bytes] = asyncio.Queue()
        self.asked: list[str] = []  # for events

    async def __call__(
        self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]
    ) -> None:
        del receive
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/info":
            await send({"type": "http.response.body", "body": msgspec.json.encode(INFO)})
            return
        self.asked.append(scope["query_string"].decode())
        event: Event | bytes = Hello("epoch", 0)
        while True:
            line = (event if isinstance(event, bytes) else msgspec.json.encode(event)) + b"\n"
            await send({"type": "http.response.body", "body": line, "more_body": True})
            event = await self.events.get()


class SilentListener:
    """Ignores all events of an engine, but counts its losses."""

    losses = 0

    def engine_ready(self, info: EngineInfo) -> None: ...

    def engine_stepped(self, step: Step) -> None: ...

    def engine_refused(self, refused: Any) -> None: ...

    def engine_lost(self) -> None:
        type(self).losses += 1

    def engine_starting(self, starting: Starting) -> None: ...


@pytest.fixture
async def hanging() -> AsyncIterator[tuple[HangingEngine, ColocatedEngine]]:
    with tempfile.TemporaryDirectory() as folder:
        engine, socket = HangingEngine(), str(Path(folder) / "engine.sock")
        config = uvicorn.Config(engine, uds=socket, log_config=None, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        client = ColocatedEngine(socket)
        await client.start(SilentListener())
        yield engine, client
        await client.close()
        server.force_exit = server.should_exit = True
        await serving


async def test_each_slow_step_is_logged_once(
    hanging: tuple[HangingEngine, ColocatedEngine],
) -> None:
    engine, client = hanging
    with capture_logs() as logs:
        for busy_s in (2.0, 10.5, 11.5):
            engine.events.put_nowait(Heartbeat(0, busy_s))
        await _wait_until(lambda: client.busy_s == 11.5)
        assert [entry["event"] for entry in logs] == ["engine_step_slow"]
        engine.events.put_nowait(Step(1, KV, {}))
        await _wait_until(lambda: client.busy_s == 0.0)
        engine.events.put_nowait(Heartbeat(1, 12.0))
        await _wait_until(lambda: client.busy_s == 12.0)
    assert [entry["busy_s"] for entry in logs] == [10.5, 12.0]


async def _wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_event_that_cannot_be_read_loses_the_engine_and_is_not_asked_for_again(
    hanging: tuple[HangingEngine, ColocatedEngine],
) -> None:
    engine, _ = hanging
    await _wait_until(lambda: len(engine.asked) == 1)
    before = SilentListener.losses
    engine.events.put_nowait(b'{"event": "step", "number": "no number"}')
    await _wait_until(lambda: SilentListener.losses > before)
    await _wait_until(lambda: len(engine.asked) == 2)
    sessions = {asked.partition("&")[0] for asked in engine.asked}
    assert len(sessions) == 2, "it goes on in a session of its own"
