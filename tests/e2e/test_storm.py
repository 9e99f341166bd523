"""Everything at once: a tight KV memory, clients that leave, and an engine that is killed."""

import asyncio
from random import Random
from typing import Any

import httpx
from msgspec import Struct

from engine.demo.jobs import JOBS
from tests.conftest import PATIENCE_S

REQUESTS = 120
WITHIN_S = 4.0  # the requests arrive


class Tally(Struct):
    answered: int = 0
    left: int = 0


async def one_client(caller: httpx.AsyncClient, rng: Random, tally: Tally) -> None:
    """Asks something after a while, and in a third of all cases leaves before the answer ends."""
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
    await asyncio.sleep(WITHIN_S * rng.random())
    if not streamed:
        try:
            answer = await caller.post(
                "/v1/chat/completions", json=body, timeout=0.2 if leaves else PATIENCE_S
            )
        except httpx.TimeoutException:
            assert leaves
            tally.left += 1
            return
        assert answer.status_code == 200, answer.text
        tally.answered += 1
        return
    async with caller.stream("POST", "/v1/chat/completions", json=body) as events:
        assert events.status_code == 200
        lines = [line async for line in _until(events, 3 if leaves else None)]
    assert not any('"error"' in line for line in lines)
    tally.answered += "data: [DONE]" in lines
    tally.left += "data: [DONE]" not in lines


async def _until(events: httpx.Response, most: int | None) -> Any:
    """The lines of a stream, at most `most` of them."""
    number = 0
    async for line in events.aiter_lines():
        yield line
        number += 1
        if number == most:
            return


async def test_storm_fails_no_request_and_leaves_nothing_behind(own: Any) -> None:
    gateway = await own.running()
    rng, tally = Random(5), Tally()

    async def kill_engine() -> None:
        await asyncio.sleep(WITHIN_S / 2)
        gateway.engine().kill()

    limits = httpx.Limits(max_connections=REQUESTS)
    async with gateway.caller(limits=limits) as caller:
        await asyncio.gather(
            kill_engine(), *(one_client(caller, rng, tally) for _ in range(REQUESTS))
        )
    await gateway.idle()
    assert tally.answered + tally.left == REQUESTS
    assert tally.answered > REQUESTS / 2

    async with asyncio.timeout(
        PATIENCE_S
    ):  # the cancelled ones are dropped at the engine's next step
        while (stats := await gateway.engine_stats())["free"] != stats["pages"]:
            await asyncio.sleep(0.02)
    assert await gateway.stop() == 0
    told = gateway.errors.read_text()
    assert "Traceback" not in told
    assert "never retrieved" not in told
