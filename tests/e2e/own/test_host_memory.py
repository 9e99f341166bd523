"""Requests that the device cannot hold, with keys and values in host memory."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.conftest import PATIENCE_S
from tests.e2e.conftest import Served, streamed_across

Asked = Callable[..., dict[str, Any]]
WORDS = "brave queen finds golden castle " * 100  # more than the device holds
KV = "x-lmaas-kv"


@pytest.fixture(scope="module")
async def small(data_root: Path) -> AsyncIterator[Served]:
    """A gateway whose device holds a quarter of what its host memory does."""
    settings = {"LMAAS_KV_TOKENS": "512", "LMAAS_OFFLOAD_KV_TOKENS": "2048"}
    gateway = await Served(data_root / "host", **settings).ready()
    yield gateway
    assert await gateway.stop() == 0, gateway.errors.read_text()


@pytest.fixture
def long(asked: Asked) -> dict[str, Any]:
    """A request of more tokens than the device holds."""
    return {**asked("translate", WORDS), "max_tokens": 60, "logprobs": True}


async def test_the_answer_is_that_of_a_larger_device(
    small: Served, client: openai.AsyncOpenAI, long: dict[str, Any]
) -> None:
    expected = await client.chat.completions.create(**long)
    async with small.client() as own:
        for memory in ("host-exact", "host-speculative"):
            answer = await own.chat.completions.with_raw_response.create(
                **long, extra_body={"memory": memory}
            )
            assert answer.headers[KV] == memory
            found = answer.parse()
            assert found.usage == expected.usage
            if memory == "host-exact":
                assert found.choices[0].message.content == expected.choices[0].message.content


async def test_what_fits_the_device_stays_there(small: Served, asked: Asked) -> None:
    async with small.client() as own:
        short = {**asked("translate", "brave queen"), "max_tokens": 20}
        answer = await own.chat.completions.with_raw_response.create(
            **short, extra_body={"memory": "host-exact"}
        )
        assert answer.headers[KV] == "device"
        plain = await own.chat.completions.with_raw_response.create(**short)
        assert KV not in plain.headers


async def test_without_a_choice_it_is_refused(small: Served, long: dict[str, Any]) -> None:
    async with small.client() as own:
        with pytest.raises(openai.BadRequestError, match="context is 512 tokens"):
            await own.chat.completions.create(**long)


async def test_a_gateway_without_host_memory_says_what_sets_it(
    client: openai.AsyncOpenAI, long: dict[str, Any]
) -> None:
    with pytest.raises(openai.BadRequestError, match="LMAAS_OFFLOAD_KV_TOKENS") as refused:
        await client.chat.completions.create(**long, extra_body={"memory": "host-exact"})
    assert refused.value.param == "memory"


async def test_an_app_has_a_place_for_requests_that_name_none(
    small: Served, long: dict[str, Any]
) -> None:
    tenant, key = await small.tenant("readers")
    async with small.admin() as admin:
        [app] = (await admin.get(f"/admin/tenants/{tenant}/apps")).json()["data"]
        changed = await admin.patch(f"/admin/apps/{app['id']}", json={"memory": "host-exact"})
        assert changed.is_success
    async with small.client(key) as own:
        answer = await own.chat.completions.with_raw_response.create(**long)
        assert answer.headers[KV] == "host-exact"
        with pytest.raises(openai.BadRequestError, match="context is 512 tokens"):
            await own.chat.completions.create(**long, extra_body={"memory": "device"})


async def test_an_app_may_name_a_place_that_a_gateway_lacks(served: Served, asked: Asked) -> None:
    tenant, key = await served.tenant("readers elsewhere")
    async with served.admin() as admin:
        [app] = (await admin.get(f"/admin/tenants/{tenant}/apps")).json()["data"]
        await admin.patch(f"/admin/apps/{app['id']}", json={"memory": "host-exact"})
    async with served.client(key) as own:
        short = {**asked("translate", "brave queen"), "max_tokens": 20}
        answer = await own.chat.completions.with_raw_response.create(**short)
        assert answer.headers[KV] == "device"


async def test_many_wait_for_each_other(small: Served, long: dict[str, Any]) -> None:
    body = {**long, "extra_body": {"memory": "host-exact"}}
    async with small.client() as own, asyncio.timeout(PATIENCE_S):
        answers = await asyncio.gather(*(own.chat.completions.create(**body) for _ in range(5)))
    assert len({answer.choices[0].message.content for answer in answers}) == 1


async def test_as_many_run_at_once_as_host_memory_holds(
    small: Served, long: dict[str, Any]
) -> None:
    body = {**long, "max_tokens": 400, "stream": True}
    more = {"memory": "host-exact", "min_tokens": 400, "ignore_eos": True}
    began, ended = asyncio.Event(), asyncio.Event()
    async with small.client() as own, asyncio.timeout(PATIENCE_S):

        async def first() -> None:
            async for _ in await own.chat.completions.create(**body, extra_body=more):
                began.set()
            ended.set()

        async def second() -> None:
            await began.wait()
            async for _ in await own.chat.completions.create(**body, extra_body=more):
                assert not ended.is_set()
                return

        await asyncio.gather(first(), second())


async def test_it_goes_on_after_the_engine_was_killed(small: Served, long: dict[str, Any]) -> None:
    body = {**long, "extra_body": {"memory": "host-exact"}}
    engine = small.engine().pid
    async with small.client() as own:
        expected = (await own.chat.completions.create(**body)).choices[0].message.content
        pieces = await streamed_across(own, body, lambda: os.kill(engine, signal.SIGKILL))
    assert "".join(pieces) == expected
