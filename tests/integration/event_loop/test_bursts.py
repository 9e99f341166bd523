"""Requests that arrive together are started one after another; health is answered meanwhile."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from tests.conftest import PATIENCE_S
from tests.integration.event_loop.conftest import API_KEY

BURST = 100
LEAVING = 100  # clients
CHOICES = 8  # of each request
LONGEST = 20.0  # units of work; all at once take 200


LIVE = "/health/live"


def get(path: str, connection: str = "close") -> bytes:
    fields = f"Host: gateway\r\nConnection: {connection}\r\nAuthorization: Bearer {API_KEY}"
    return f"GET {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode()


@contextmanager
def held(gateway: Any) -> Iterator[None]:
    """The gateway's loop stands still; all that is sent meanwhile arrives together."""
    stands, released = threading.Event(), threading.Event()

    def stand_still() -> None:
        stands.set()
        assert released.wait(PATIENCE_S)

    gateway.loop.call_soon_threadsafe(stand_still)
    assert stands.wait(PATIENCE_S)
    try:
        yield
    finally:
        released.set()


async def answered(gateway: Any, paths: list[str]) -> list[str]:
    """Paths that are requested together, each on a connection of its own, as they are answered."""
    place, order = urlsplit(gateway.url), list[str]()
    connections = [await asyncio.open_connection(place.hostname, place.port) for _ in paths]

    async def read(path: str, reader: asyncio.StreamReader) -> None:
        assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
        order.append(path)

    for reader, writer in connections:  # so that the gateway has accepted them
        writer.write(get(LIVE, "keep-alive"))
        await reader.readuntil(b"}")
    with held(gateway):
        for (_, writer), path in zip(connections, paths, strict=True):
            writer.write(get(path))
    async with asyncio.TaskGroup() as reading:
        for (reader, _), path in zip(connections, paths, strict=True):
            reading.create_task(read(path, reader))
    for _, writer in connections:
        writer.close()
    return order


async def test_health_is_answered_before_a_burst_that_came_first(gateway: Any) -> None:
    order = await answered(gateway, ["/v1/models"] * BURST + [LIVE])
    assert len(order) == BURST + 1
    assert order.index(LIVE) < BURST // 2


async def test_clients_that_leave_together_are_noticed_one_in_each_turn(gateway: Any) -> None:
    """The engine is paused while their requests wait, of eight answers each."""
    body = json.dumps(
        {
            "model": "lmaas-demo",
            "messages": [{"role": "user", "content": "brave queen"}],
            "n": CHOICES,
            "max_tokens": 4,
        }
    ).encode()
    fields = f"Host: gateway\r\nAuthorization: Bearer {API_KEY}\r\nContent-Length: {len(body)}"
    request = f"POST /v1/chat/completions HTTP/1.1\r\n{fields}\r\n\r\n".encode() + body
    place = urlsplit(gateway.url)
    async with gateway.admin() as admin:
        await admin.post("/admin/engine/pause")
        try:
            leaving = [
                await asyncio.open_connection(place.hostname, place.port) for _ in range(LEAVING)
            ]
            for _, writer in leaving:
                writer.write(request)
            await gateway.waiting(LEAVING * CHOICES)
            with gateway.meter.measuring():
                with held(gateway):
                    for _, writer in leaving:
                        writer.transport.abort()
                await gateway.waiting(0)
            assert gateway.meter.longest <= LONGEST
        finally:
            await admin.post("/admin/engine/resume")
