"""The connection to an engine, on the loop of the gateway, against a server of raw bytes."""

import asyncio
import gc
import socket
import tempfile
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import uvloop

from gateway.engines.http_connection import HttpConnection, HttpResponse
from tests.conftest import PATIENCE_S

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class RawServer:
    """Accepts connections on a Unix socket; what it sends is there at once."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.listener.setblocking(False)
        self.accepted: list[socket.socket] = []

    async def accept(self) -> socket.socket:
        """The next connection, once its request has come."""
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(self.listener)
        self.accepted.append(connection)
        await self.read(connection)
        return connection

    async def read(self, connection: socket.socket) -> bytes:
        loop, received = asyncio.get_running_loop(), b""
        while b"\r\n\r\n" not in received:
            received += await loop.sock_recv(connection, 1 << 16)
        return received

    def close(self) -> None:
        for each in (self.listener, *self.accepted):
            each.close()


@pytest.fixture
def server() -> Iterator[RawServer]:
    with tempfile.TemporaryDirectory() as folder, closing(RawServer(f"{Path(folder)}/s")) as raw:
        yield raw


def run(scenario: Callable[[], Awaitable[None]]) -> list[str]:
    """Run on uvloop; what its callbacks raised."""
    raised: list[str] = []

    def keep(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        raised.append(f"{context['message']}: {context.get('exception')!r}")

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(keep)
        async with asyncio.timeout(PATIENCE_S):
            await scenario()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(watched())
    return raised


async def requested(connection: HttpConnection, server: RawServer, answer: bytes) -> HttpResponse:
    """A response, whose server has sent `answer` so far."""
    pending = asyncio.create_task(connection.request("GET", "/"))
    (await server.accept()).sendall(answer)
    return await pending


def test_data_that_comes_while_a_read_is_cancelled_raises_nothing(server: RawServer) -> None:
    async def scenario() -> None:
        async with HttpConnection(server.path, PATIENCE_S) as connection:
            response = await requested(connection, server, CHUNKED)
            reading = asyncio.create_task(response.content())
            await asyncio.sleep(0.01)
            server.accepted[0].sendall(b"1\r\na\r\n")  # the loop has not polled since
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            await asyncio.sleep(0)

    assert run(scenario) == []


def test_connection_is_used_again_after_a_whole_response(server: RawServer) -> None:
    async def scenario() -> None:
        async with HttpConnection(server.path, PATIENCE_S) as connection:
            first = await requested(connection, server, OK + b"Content-Length: 2\r\n\r\nab")
            assert (first.status, await first.content()) == (200, b"ab")
            again = asyncio.create_task(connection.request("POST", "/x", b"body"))
            received = await server.read(server.accepted[0])
            assert received.startswith(b"POST /x HTTP/1.1\r\n")
            assert received.endswith(b"Content-Length: 4\r\n\r\nbody")
            server.accepted[0].sendall(b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n")
            assert ((await again).status, await (await again).content()) == (409, b"")

    assert run(scenario) == []


@pytest.mark.parametrize(
    "answer",
    [CHUNKED + b"1\r\na\r\n", OK + b"Connection: close\r\nContent-Length: 1\r\n\r\na"],
    ids=["its response is not read to the end", "the server closes it"],
)
def test_another_connection_is_opened_where(server: RawServer, answer: bytes) -> None:
    async def scenario() -> None:
        async with HttpConnection(server.path, PATIENCE_S) as connection:
            assert await anext((await requested(connection, server, answer)).parts()) == b"a"
            other = await requested(connection, server, OK + b"Content-Length: 1\r\n\r\nb")
            assert await other.content() == b"b"
            assert len(server.accepted) == 2

    assert run(scenario) == []


@pytest.mark.parametrize(
    ("sent", "error"),
    [(b"EHLO\r\n", "is not HTTP"), (OK, "closed"), (CHUNKED + b"5\r\nab", "closed")],
    ids=["no HTTP", "half of a head", "half of a body"],
)
def test_response_that_ends_early_is_a_lost_connection(
    server: RawServer, sent: bytes, error: str
) -> None:
    async def scenario() -> None:
        async with HttpConnection(server.path, PATIENCE_S) as connection:
            pending = asyncio.create_task(connection.request("GET", "/"))
            accepted = await server.accept()
            accepted.sendall(sent)
            accepted.shutdown(socket.SHUT_RDWR)
            with pytest.raises(ConnectionError, match=error):
                await (await pending).content()

    assert run(scenario) == []


def test_silent_server_is_a_timeout(server: RawServer) -> None:
    async def scenario() -> None:
        async with HttpConnection(server.path, 0.01) as connection:
            with pytest.raises(TimeoutError):
                await connection.request("GET", "/")

    assert run(scenario) == []


def test_whole_response_is_freed_without_a_search_for_garbage(server: RawServer) -> None:
    async def read(connection: HttpConnection) -> weakref.ref[HttpResponse]:
        response = await requested(connection, server, OK + b"Content-Length: 1\r\n\r\na")
        await response.content()
        return weakref.ref(response)

    async def scenario() -> None:
        gc.disable()
        try:
            async with HttpConnection(server.path, PATIENCE_S) as connection:
                response = await read(connection)
            await asyncio.sleep(0)
            assert response() is None
        finally:
            gc.enable()

    assert run(scenario) == []
