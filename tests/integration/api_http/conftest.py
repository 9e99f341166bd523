"""A real server on a thread and a uvloop of its own, as in production, spoken to byte by byte."""

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
import uvicorn
import uvloop
from litestar import Request, get, post
from litestar.params import FromPath, JSONBody
from litestar.response import Stream
from prometheus_client import CollectorRegistry

from gateway.api.body import BodyLimits, bounded_request
from gateway.api.connections.limits import ConnectionLimits
from gateway.api.connections.protocol import bounded_protocol
from gateway.api.errors import exception_handlers
from gateway.api.http_metrics import HttpMetrics
from gateway.api.request_id import IdentifyingApp
from gateway.errors import DatabaseLost
from gateway.generation.text.workers import TextWorkers

PATIENCE_S = 30.0  # a machine this slow fails every test
MAX_BODY = 1 << 20
MAX_VALUES = 3000
LIMITS = BodyLimits(MAX_BODY, MAX_VALUES)


@get("/health/live")
async def live() -> dict[str, str]:
    return {"status": "ok"}


@post("/decode", status_code=200)
async def decode(data: JSONBody[Any]) -> dict[str, int]:
    return {"items": len(data)}


@post("/size", status_code=200)
async def size(request: Request[Any, Any, Any]) -> dict[str, int]:
    return {"bytes": len(await request.body())}


@post("/early", status_code=200)
async def early() -> dict[str, str]:
    return {"status": "not read"}


@get("/stream")
async def stream() -> Stream:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b"one ", b"two ", b"three"):
            yield piece
            await asyncio.sleep(0)

    return Stream(pieces())


@get("/endless")
async def endless() -> Stream:
    async def pieces() -> AsyncIterator[bytes]:
        while True:
            yield b"piece "
            await asyncio.sleep(0.001)

    return Stream(pieces())


@post("/v1/files", status_code=200)
async def upload(request: Request[Any, Any, Any]) -> dict[str, int]:
    return {"bytes": len(await request.body())}


LARGE = 16 << 20


@get("/large")
async def large() -> bytes:
    """An answer in one piece, larger than what a socket takes."""
    return bytes(LARGE)


@get("/v1/files/{name:str}/content")
async def download(name: FromPath[str]) -> Stream:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(4096):
            yield bytes(1 << 16)
            if name == "lost":
                raise DatabaseLost("the database does not answer")

    return Stream(pieces(), headers={"Content-Length": str(4096 << 16)})


class Response:
    """A response as it stands on the wire."""

    def __init__(self, received: bytes) -> None:
        head, _, self.body = received.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        self.status = int(status.split()[1])
        self.headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }

    @property
    def error(self) -> dict[str, Any]:
        """The error, once its shape is OpenAI's."""
        assert self.headers["content-type"] == "application/json"
        assert self.headers["x-request-id"].startswith("req_")
        error: dict[str, Any] = json.loads(self.body)["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        return error


class Client:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)

    def send(self, data: bytes) -> "Client":
        self.socket.sendall(data)
        return self

    def read_until_closed(self) -> bytes:
        return b"".join(iter(lambda: self.socket.recv(1 << 16), b""))

    def response(self) -> Response:
        """The one response, after which the server ends the connection."""
        return Response(self.read_until_closed())

    def next_response(self) -> Response:
        """The next response, with a length, on a connection that stays open."""
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._more()
        head, _, body = received.partition(b"\r\n\r\n")
        length = int(Response(received).headers["content-length"])
        while len(body) < length:
            body += self._more()
        return Response(head + b"\r\n\r\n" + body)

    def _more(self) -> bytes:
        data = self.socket.recv(1 << 16)
        assert data, "the server closed the connection"
        return data


class Server:
    """Where it listens, and connections to it."""

    def __init__(self, port: int, clients: list[Client], registry: CollectorRegistry) -> None:
        self.port = port
        self.registry = registry
        self._clients = clients

    def connect(self) -> Client:
        self._clients.append(Client(self.port))
        return self._clients[-1]

    def send(self, data: bytes) -> Client:
        return self.connect().send(data)

    def post(self, path: str, body: bytes, **headers: str) -> Response:
        return self.send(a_post(path, body, Connection="close", **headers)).response()

    def count(self, name: str, **labels: str) -> float:
        """A series' value; 0 before its first event."""
        return self.registry.get_sample_value(name, labels) or 0

    def is_live(self) -> bool:
        return self.send(GET_LIVE).response().status == 200


def a_post(path: str, body: bytes, **headers: str) -> bytes:
    fields = {"Host": "x", "Content_Length": str(len(body)), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


GET_LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
GET_LIVE_AGAIN = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@contextmanager
def serving(
    limits_of_bodies: Callable[[], BodyLimits] | None = None, **limits: Any
) -> Iterator[Server]:
    registry = CollectorRegistry()
    metrics = HttpMetrics(registry)
    app = IdentifyingApp(
        [live, decode, size, early, stream, endless, upload, download, large],
        exception_handlers=exception_handlers,
        request_class=bounded_request(limits_of_bodies or (lambda: LIMITS), TextWorkers()),
        request_max_body_size=None,
        metrics=metrics,
        logging_config=None,
    )
    clients: list[Client] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        config = uvicorn.Config(
            app,
            http=bounded_protocol(ConnectionLimits(**limits), metrics),
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)

        def run() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(server._serve([listener]))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield Server(listener.getsockname()[1], clients, registry)
        finally:
            for client in clients:
                client.socket.close()
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """With the limits that are the default."""
    with serving() as started:
        yield started
