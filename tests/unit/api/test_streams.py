"""Streams whose client does not read, or goes away."""

import asyncio
from typing import Any

from litestar import Litestar, get
from litestar.response import Stream

from gateway.api.streams import streamed
from gateway.generation.live import LiveRequest, Piece
from tests.conftest import PATIENCE_S


class Median:
    median = 3.0


class Answer:
    """As much of a live request as a stream reads: it grows for ever."""

    done = False
    error = None
    tokens = (1,)
    prediction = Median()

    def read(self, *, ended: bool) -> Piece:
        assert not ended
        return Piece("word ")

    async def growth(self) -> None:
        await asyncio.sleep(0)


class Chunks:
    def opening(self, _: LiveRequest) -> None:
        return None

    def piece(self, _: LiveRequest, piece: Piece) -> str:
        return piece.text

    def closing(self, _: LiveRequest) -> str:
        return "end"

    def usage(self) -> None:
        return None


class Generations:
    def __init__(self) -> None:
        self.cancelled: list[Any] = []

    def cancel(self, live: Any) -> None:
        self.cancelled.append(live)


async def test_client_that_leaves_while_we_write_to_it_frees_its_sequence() -> None:
    generations, answer = Generations(), Answer()

    @get("/")
    async def stream() -> Stream:
        return streamed([answer], generations, Chunks())  # type: ignore[list-item, arg-type]

    blocked = asyncio.Event()

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            blocked.set()
            await asyncio.Event().wait()  # a client that reads nothing

    async def receive() -> Any:
        if not blocked.is_set():
            await blocked.wait()
        return {"type": "http.disconnect"}

    scope: Any = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "headers": [],
        "server": ("test", 80),
        "client": ("test", 1),
        "scheme": "http",
        "root_path": "",
    }
    async with asyncio.timeout(PATIENCE_S):
        await Litestar([stream])(scope, receive, send)
    assert generations.cancelled == [answer]
