"""The client of the learning benchmark, against a server in the test's process."""

import asyncio
import json
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from benchmarks.learning.traffic import Client, PlannedRequest
from gateway.evaluation.corpus import CorpusLine

KEYS = {"grammar": "key"}


def planned(count: int) -> list[PlannedRequest]:
    line = CorpusLine(app="grammar", instruction="Do it.", input="a text", output="x")
    return [PlannedRequest(0.0, line, seed) for seed in range(count)]


@asynccontextmanager
async def a_server(*, status: str = "200 OK") -> AsyncIterator[str]:
    """Answers each request with its seed as id, and closes the connection."""

    async def answer(reader: StreamReader, writer: StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert "authorization: bearer key" in head
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        sent = json.loads(await reader.readexactly(length))
        body = json.dumps({"id": f"chatcmpl-{sent['seed']}"})
        head = f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"


async def test_answers_come_in_the_order_of_the_plan_and_are_counted() -> None:
    counts: list[int] = []
    async with a_server() as url:
        client = Client(url, "smollm2", KEYS, counts.append)
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(client.send(planned(5)))
            waiting = group.create_task(client.wait_until_answered(3))
        assert waiting.done()
    assert [each.request_id for each in sending.result()] == [f"chatcmpl-{n}" for n in range(5)]
    assert counts == [1, 2, 3, 4, 5]


async def test_failed_request_ends_the_run() -> None:
    async with a_server(status="503 Service Unavailable") as url:
        client = Client(url, "smollm2", KEYS, lambda _: None)
        with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="a request failed")):
            await client.send(planned(1))
