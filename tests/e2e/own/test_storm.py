"""Little KV memory, clients that disconnect, and a killed engine, all at once."""

import asyncio
from random import Random
from typing import Any

import httpx
from msgspec import Struct

from engine.demo.jobs import JOBS
from tests.conftest import PATIENCE_S

REQUESTS = 120
ARRIVAL_WINDOW_S = 4.0  # the requests arrive


class ClientCounts(Struct):
    answered: int = 0
    left: int = 0


async def one_client(caller: httpx.AsyncClient, rng: Random, counts: ClientCounts) -> None:
    """Sends a request after a random delay; 30 % disconnect before the answer ends."""
    exchange = rng.choice(JOBS).draw(rng)
    streamed, leaves = rng.random() < 0.6, rng.random() < 0.3
    body = {
        "model": "lmaas-demo",
        "stream": streamed,
        "messages": [
            {"role": "system", "content": exchange.instruction},
            {"role": "user", "content": exchange.question},
        ],
    }
    await asyncio.sleep(ARRIVAL_WINDOW_S * rng.random())
    if not streamed:
        try:
            answer = await caller.post(
                "/v1/chat/completions", json=body, timeout=0.2 if leaves else PATIENCE_S
            )
        except httpx.TimeoutException:
            assert leaves
            counts.left += 1
            return
        assert answer.status_code == 200, answer.text
        counts.answered += 1
        return
    async with caller.stream("POST", "/v1/chat/completions", json=body) as events:
        assert events.status_code == 200
        lines = [line async for line in _until(events, 3 if leaves else None)]
    assert not any('"error"' in line for line in lines)
    counts.answered += "data: [DONE]" in lines
    counts.left += "data: [DONE]" not in lines


async def _until(events: httpx.Response, max_lines: int | None) -> Any:
    """The first `max_lines` lines of a stream; all of them if None."""
    number = 0
    async for line in events.aiter_lines():
        yield line
        number += 1
        if number == max_lines:
            return


async def test_storm_fails_no_request_and_leaves_nothing_behind(own: Any) -> None:
    gateway = await own.running()
    rng, counts = Random(5), ClientCounts()

    async def kill_engine() -> None:
        await asyncio.sleep(ARRIVAL_WINDOW_S / 2)
        gateway.engine().kill()

    limits = httpx.Limits(max_connections=REQUESTS)
    async with gateway.caller(limits=limits) as caller:
        await asyncio.gather(
            kill_engine(), *(one_client(caller, rng, counts) for _ in range(REQUESTS))
        )
    await gateway.idle()
    assert counts.answered + counts.left == REQUESTS
    assert counts.answered > REQUESTS / 2

    async with asyncio.timeout(
        PATIENCE_S
    ):  # the cancelled ones are dropped at the engine's next step
        while (stats := await gateway.engine_stats())["free"] != stats["pages"]:
            await asyncio.sleep(0.02)
    assert await gateway.stop() == 0
    log = gateway.errors.read_text()
    assert "Traceback" not in log
    assert "never retrieved" not in log
