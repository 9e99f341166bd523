"""Limits on use over HTTP: refusals, headers, and answers that end at their budget."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import openai
import pytest

from gateway.api.usage.rate_limits import BEYOND, LIMIT
from tests.conftest import PATIENCE_S

Asked = Callable[..., dict[str, Any]]
WORDS = "brave queen finds golden castle"


class Limited:
    """A tenant of its own with a client, and its limits."""

    def __init__(self, served: Any, tenant: str, key: str) -> None:
        self._served = served
        self.tenant = tenant
        self.client: openai.AsyncOpenAI = served.client(key)

    async def limit(self, kind: str, value: int | str, effect: str = "hard") -> None:
        body = {"level": "tenant", "owner": self.tenant, "kind": kind, "effect": effect}
        async with self._served.admin() as admin:
            answer = await admin.put("/admin/limits", json={**body, "value": str(value)})
        assert answer.status_code == 200, answer.text

    async def used(self, requests: int) -> int:
        """Tokens in the history of this tenant, once this many of its requests are there."""
        async with self._served.admin() as admin, asyncio.timeout(PATIENCE_S):
            while True:
                answer = await admin.get("/admin/usage", params={"tenant": self.tenant})
                (usage,) = answer.json()["data"]
                if usage["requests"] == requests:
                    return int(usage["prompt_tokens"] + usage["generation_tokens"])
                await asyncio.sleep(0.02)


@pytest.fixture
async def limited(served: Any, request: pytest.FixtureRequest) -> AsyncIterator[Limited]:
    tenant, key = await served.tenant(request.node.name)
    made = Limited(served, tenant, key)
    yield made
    await made.client.close()


async def test_a_hard_limit_refuses_with_openais_headers(limited: Limited, asked: Asked) -> None:
    await limited.limit("requests_per_minute", 2)
    await limited.limit("tokens_per_minute", 100_000)
    for left in ("1", "0"):
        answer = await limited.client.chat.completions.with_raw_response.create(
            **asked("translate", WORDS)
        )
        assert answer.headers["x-ratelimit-limit-requests"] == "2"
        assert answer.headers["x-ratelimit-remaining-requests"] == left
        assert answer.headers["x-ratelimit-limit-tokens"] == "100000"
        assert int(answer.headers["x-ratelimit-remaining-tokens"]) <= 100_000
    with pytest.raises(openai.RateLimitError) as refused:
        await limited.client.chat.completions.create(**asked("translate", WORDS))
    error, headers = refused.value, refused.value.response.headers
    assert (error.type, error.code) == ("rate_limit_error", "limit_reached")
    assert headers[LIMIT] == "tenant requests_per_minute"
    assert 1 <= int(headers["retry-after"]) <= 30
    assert headers["x-ratelimit-reset-requests"].endswith("s")


async def test_a_race_of_many_never_exceeds_the_budget(limited: Limited, asked: Asked) -> None:
    await limited.limit("tokens_per_day", budget := 2_000)
    request = asked("spell", WORDS)

    async def ask() -> str:
        try:
            answer = await limited.client.chat.completions.create(**request)
        except openai.RateLimitError as error:
            return str(error.code)
        return str(answer.choices[0].finish_reason)

    ends = await asyncio.gather(*(ask() for _ in range(100)))
    assert set(ends) <= {"stop", "length", "limit_reached"}
    assert 0 < ends.count("limit_reached") < len(ends)
    assert await limited.used(len(ends) - ends.count("limit_reached")) <= budget


async def test_soft_and_warning_limits_are_named_in_a_header(
    limited: Limited, asked: Asked
) -> None:
    await limited.limit("tokens_per_day", 1, "warn")
    await limited.limit("tokens_per_month", 1, "soft")
    answer = await limited.client.chat.completions.with_raw_response.create(**asked("spell", WORDS))
    assert set(answer.headers[BEYOND].split(", ")) == {
        "tenant tokens_per_day warn",
        "tenant tokens_per_month soft",
    }
    assert answer.parse().choices[0].finish_reason == "stop"


@pytest.mark.parametrize("header", ["x-lmaas-max-p90-tokens", "x-lmaas-max-cost"])
async def test_a_request_refuses_itself_above_its_own_ceiling(
    client: openai.AsyncOpenAI, asked: Asked, header: str
) -> None:
    request = asked("spell", WORDS, max_tokens=100)
    for value, refused in (("1", header == "x-lmaas-max-p90-tokens"), ("1000", False)):
        create = client.chat.completions.create(**request, extra_headers={header: value})
        if refused:
            with pytest.raises(openai.BadRequestError) as error:
                await create
            assert (error.value.code, error.value.param) == ("ceiling_exceeded", header)
        else:
            assert (await create).choices[0].message.content
    for bad in ("", "x", "-1", "1e3"):
        with pytest.raises(openai.BadRequestError) as error:
            await client.chat.completions.create(**request, extra_headers={header: bad})
        assert error.value.param == header
