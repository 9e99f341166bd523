"""One key floods the engine with answers longer than predicted; another tenant is served."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

MOST_STEPS = 60
PROMPTS, CHOICES, CALLERS = 16, 8, 8  # 1,024 sequences, twenty times what fits
QUEUED = PROMPTS * CHOICES * CALLERS // 2
TOKENS = 120
STEPS = 'lmaas_tenant_response_steps_total{tenant="small"}'


@pytest.fixture
async def flooded(start_gateway: Any, copied_database: Callable[[str], str]) -> AsyncIterator[Any]:
    """A gateway with memory for fewer sequences than it runs at once, and a queue for the flood."""
    gateway = await start_gateway(
        "flooded",
        DATABASE_URL=copied_database("flooded"),
        LMAAS_KV_TOKENS="6144",
        LMAAS_MAX_QUEUED_REQUESTS="10000",
        LMAAS_MAX_TENANT_QUEUED_REQUESTS="10000",
    ).ready()
    yield gateway
    assert await gateway.stop() == 0
    assert "Traceback" not in gateway.errors.read_text()


async def metric(scraper: httpx.AsyncClient, name: str) -> float:
    """The value of a series; 0 before its first value."""
    text = (await scraper.get("/metrics")).text
    found = re.search(rf"^{re.escape(name)} ([0-9.e+]+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def flood(caller: httpx.AsyncClient, number: int, measured: asyncio.Event) -> None:
    """Send requests one after another until it is measured; no answer ends before its limit."""
    prompts = [f"{number} {place} brave queen finds golden castle" for place in range(PROMPTS)]
    body = {
        "model": "lmaas-demo",
        "prompt": prompts,
        "n": CHOICES,
        "max_tokens": TOKENS,
        "logit_bias": {"4": -100},
    }
    while not measured.is_set():
        answer = await caller.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        assert {choice["finish_reason"] for choice in answer.json()["choices"]} == {"length"}
        assert answer.json()["usage"]["completion_tokens"] == PROMPTS * CHOICES * TOKENS


async def test_a_flood_delays_six_tokens_of_another_tenant_by_sixty_steps_at_most(
    flooded: Any, asked: Any
) -> None:
    _, key = await flooded.tenant("small")
    measured = asyncio.Event()
    async with (
        flooded.caller() as caller,
        flooded.client(key) as small,
        flooded.admin() as scraper,
    ):
        flooding = [
            asyncio.create_task(flood(caller, number, measured)) for number in range(CALLERS)
        ]
        while await metric(scraper, "lmaas_waiting_requests") < QUEUED:
            assert not any(each.done() for each in flooding)
            await asyncio.sleep(0.2)
        taken = []
        for _ in range(5):
            before = await metric(scraper, STEPS)
            await small.chat.completions.create(**asked("spell", "brave queen", max_tokens=6))
            taken.append(await metric(scraper, STEPS) - before)
        assert await metric(scraper, "lmaas_waiting_requests") > QUEUED // 2
        measured.set()
        assert 6 <= min(taken) <= max(taken) <= MOST_STEPS, taken
        await asyncio.gather(*flooding)
