"""R1: its probe, its clients and its verdicts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import repeat

import numpy as np
import pytest

from benchmarks.harness.cpu_noise import CpuNoise
from benchmarks.harness.retry import Measured
from benchmarks.r1 import hostile_clients
from benchmarks.r1.hostile_clients import CLIENTS, Target, attack
from benchmarks.r1.liveness import Liveness
from benchmarks.r1.run import Attack, row_of, targets
from tests.conftest import PATIENCE_S

LIVE = b'HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{"status":"ok"}'


@asynccontextmanager
async def listening(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """The URL of a server."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("answers", "failures"),
    [
        ([[LIVE] * 3], 0),
        ([[LIVE], [LIVE]], 0),  # closed while idle: opened again
        ([[LIVE], [b"HTTP/1.1 503 \r\n\r\n"]], 1),
    ],
    ids=["kept open", "closed while idle", "refused"],
)
async def test_probe_counts_what_is_not_answered(answers: list[list[bytes]], failures: int) -> None:
    """The server answers each connection from a list and closes it, then answers all."""
    left, done = iter(answers), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine = next(left, None)
        if mine is None:
            done.set()
        for each in repeat(LIVE) if mine is None else mine:
            if not await reader.read(4096):
                break
            writer.write(each)
        writer.close()

    async with listening(answer) as url, asyncio.timeout(PATIENCE_S):
        liveness = Liveness(url)
        await asyncio.to_thread(liveness.__enter__)
        await done.wait()
        await asyncio.to_thread(liveness.__exit__, None, None, None)
    assert liveness.failures == failures
    assert len(liveness.latencies_ms) >= sum(map(len, answers)) - 1


@pytest.mark.parametrize("name", CLIENTS)
async def test_client_ends_in_time_whatever_the_gateway_does(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 \r\n\r\n")
        writer.close()

    monkeypatch.setattr(hostile_clients, "DURATION_S", 0.2)
    async with listening(refuse) as url, asyncio.timeout(PATIENCE_S):
        target = Target(url, "key")
        await attack(name, target)
    assert set(target.outcomes) <= {"503", "none"}


def test_verdicts_are_of_the_worst_client_and_not_of_the_gateway_alone() -> None:
    rows = [
        row_of(name, Measured(Attack(np.array(latencies), failed, ""), CpuNoise(0, 0), 1))
        for name, latencies, failed in (
            ("none", [900.0], 0),
            ("flood", [1.0, 250.0], 0),
            ("slow", [2.0, 2.0], 1),
        )
    ]
    assert [verdict.value for verdict in targets(rows)] == [pytest.approx(247.51), 250.0, 1]
    assert [verdict.met for verdict in targets(rows)] == [False, True, False]
    assert not any(verdict.met for verdict in targets(rows[:1]))
