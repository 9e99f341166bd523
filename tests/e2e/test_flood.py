"""One key floods the engine with answers longer than predicted; another tenant is served."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

MOST_STEPS = 60
PROMPTS, CHOICES, REQUESTS = 16, 8, 20  # 2,560 sequences
TOKENS = 120
STEPS = 'lmaas_tenant_response_steps_total{tenant="small"}'


@pytest.fixture
async def flooded(start_gateway: Any) -> AsyncIterator[Any]:
    """A gateway with memory for fewer sequences than it runs at once, and a queue for the flood."""
    gateway = await start_gateway(
        "flooded",
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


async def flood(caller: httpx.AsyncClient, number: int) -> list[int]:
    """The tokens of each answer to one request; none ends before its limit."""
    prompts = [f"{number} {place} brave queen finds golden castle" for place in range(PROMPTS)]
    body = {
        "model": "lmaas-demo",
        "prompt": prompts,
        "n": CHOICES,
        "max_tokens": TOKENS,
        "logit_bias": {"4": -100},
    }
    answer = await caller.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert {choice["finish_reason"] for choice in answer.json()["choices"]} == {"length"}
    return [answer.json()["usage"]["completion_tokens"]]


async def test_a_flood_delays_six_tokens_of_another_tenant_by_sixty_steps_at_most(
    flooded: Any, asked: Any
) -> None:
    _, key = await flooded.tenant("small")
    async with (
        flooded.caller() as caller,
        flooded.client(key) as small,
        flooded.admin() as scraper,
    ):
        flooding = [asyncio.create_task(flood(caller, number)) for number in range(REQUESTS)]
        while await metric(scraper, "lmaas_waiting_requests") < 1_500:
            await asyncio.sleep(0.2)
        taken = []
        for _ in range(5):
            before = await metric(scraper, STEPS)
            await small.chat.completions.create(**asked("spell", "brave queen", max_tokens=6))
            taken.append(await metric(scraper, STEPS) - before)
        assert await metric(scraper, "lmaas_waiting_requests") > 500  # it was still under way
        assert 6 <= min(taken) <= max(taken) <= MOST_STEPS, taken
        answers = await asyncio.gather(*flooding)
    assert [sum(each) for each in answers] == [PROMPTS * CHOICES * TOKENS] * REQUESTS
