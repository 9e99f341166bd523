"""A flood of long prompts of one key, and a prompt of another tenant: they take turns."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gateway.generation.text.workers import THREADS
from tests.conftest import PATIENCE_S

FLOOD = 60
LENGTHS = "/v1/length-predictions"
LONG_US = 1_000_000


def asked(content: str) -> dict[str, Any]:
    return {"model": "lmaas-demo", "messages": [{"role": "user", "content": content}]}


@asynccontextmanager
async def occupied_threads(gateway: Any) -> AsyncIterator[threading.Event]:
    """While all threads are busy, until the event is set or the block ends."""
    workers, released = gateway.node.service.workers, threading.Event()

    async def occupy() -> None:
        await asyncio.gather(
            *(
                workers.finish("occupied", LONG_US, lambda: released.wait(PATIENCE_S))
                for _ in range(THREADS)
            )
        )

    occupied = asyncio.run_coroutine_threadsafe(occupy(), gateway.loop)
    try:
        await gateway.until(lambda: workers.threads_busy == THREADS)
        yield released
    finally:
        released.set()
        await asyncio.wrap_future(occupied)


async def test_flood_of_long_prompts_delays_another_tenants_prompt_by_few_of_them(
    gateway: Any,
) -> None:
    queue, done = gateway.node.service.workers.queue, list[str]()

    async def send(client: Any, name: str, content: str) -> int:
        answer = await client.post(LENGTHS, json=asked(content))
        done.append(name)
        return int(answer.status_code)

    other = await gateway.tenant("another")
    async with (
        gateway.client() as client,
        gateway.client(other) as neighbour,
        occupied_threads(gateway) as released,
    ):
        flood = [
            asyncio.create_task(send(client, "flood", f"{n} " + "queen " * 1_500))
            for n in range(FLOOD)
        ]
        await gateway.until(lambda: len(queue) == FLOOD)
        single = asyncio.create_task(send(neighbour, "single", "queen " * 600))
        await gateway.until(lambda: len(queue) == FLOOD + 1)
        released.set()
        assert await single == 200
        assert {await each for each in flood} <= {200, 503}  # 503: given up after ten seconds
    assert done.index("single") < FLOOD // 4


async def test_short_prompt_does_not_wait_for_a_thread(gateway: Any) -> None:
    workers, released = gateway.node.service.workers, threading.Event()
    other = await gateway.tenant("a third")

    async def occupy() -> None:
        holding = [
            workers.finish("occupied", LONG_US, lambda: released.wait(PATIENCE_S)) for _ in range(2)
        ]
        await asyncio.gather(*holding)

    occupied = asyncio.run_coroutine_threadsafe(occupy(), gateway.loop)
    try:
        await gateway.until(lambda: workers.threads_busy == 2)
        async with gateway.client(other) as client:
            answer = await client.post(
                "/v1/chat/completions", json={**asked("king"), "max_tokens": 1}
            )
        assert answer.status_code == 200
        assert workers.threads_busy == 2
    finally:
        released.set()
        occupied.result(PATIENCE_S)
