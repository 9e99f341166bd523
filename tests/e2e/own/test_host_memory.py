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
KV, REASON = "x-lmaas-kv", "x-lmaas-kv-reason"
STEPS_TO_PRICE = 260  # after them the gateway knows what its engine's steps cost


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
            assert (answer.headers[KV], answer.headers[REASON]) == (memory, "does_not_fit")
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
        assert REASON not in answer.headers
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


@pytest.fixture
async def occupied(
    small: Served, asked: Asked
) -> AsyncIterator[tuple[openai.AsyncOpenAI, asyncio.Task[str]]]:
    """A client of the gateway, and an answer of known length that fills most of the device."""
    own = small.client()

    async def whole(words: str, tokens: int, began: asyncio.Event) -> str:
        body = {**asked("diary", words), "max_tokens": tokens}
        more = {"min_tokens": tokens, "ignore_eos": True}
        stream = await own.chat.completions.create(**body, stream=True, extra_body=more)
        pieces = []
        async for chunk in stream:
            pieces.append(chunk.choices[0].delta.content or "")
            began.set()
        return "".join(pieces)

    await whole("A day.", STEPS_TO_PRICE, asyncio.Event())
    began = asyncio.Event()
    task = asyncio.create_task(whole("brave queen " * 110, 200, began))
    await began.wait()
    yield own, task
    await task
    await own.close()


async def preempted(small: Served) -> int:
    return int((await small.engine_stats())["preemptions"])


async def test_what_the_device_has_no_room_for_runs_next_to_others(
    small: Served,
    client: openai.AsyncOpenAI,
    asked: Asked,
    occupied: tuple[openai.AsyncOpenAI, asyncio.Task[str]],
) -> None:
    own, others = occupied
    before = await preempted(small)
    body = {**asked("translate", "golden castle " * 140), "max_tokens": 6}
    answer = await own.chat.completions.with_raw_response.create(
        **body, extra_body={"memory": "host-exact"}
    )
    assert not others.done()
    assert (answer.headers[KV], answer.headers[REASON]) == ("host-exact", "would_preempt")
    expected = await client.chat.completions.create(**body)
    assert answer.parse().choices[0].message.content == expected.choices[0].message.content
    await others
    assert await preempted(small) == before
    async with small.stranger() as stranger:
        metrics = (await stranger.get("/metrics")).text
    assert 'lmaas_kv_offload_starts_total{reason="would_preempt"} 1.0' in metrics


async def test_a_stream_says_in_a_comment_where_it_runs(
    small: Served, asked: Asked, occupied: tuple[openai.AsyncOpenAI, asyncio.Task[str]]
) -> None:
    body = {**asked("translate", "golden castle " * 140), "max_tokens": 6, "stream": True}
    async with small.caller() as caller:
        answer = await caller.post("/v1/chat/completions", json={**body, "memory": "host-exact"})
    assert not occupied[1].done()
    placed = (answer.headers[KV], answer.headers.get(REASON))
    comment = ": x-lmaas-kv: host-exact, x-lmaas-kv-reason: would_preempt"
    assert placed == ("host-exact", "would_preempt") or (
        placed == ("undecided", None) and comment in answer.text
    )


async def test_what_did_not_opt_in_waits_for_the_device(
    asked: Asked, occupied: tuple[openai.AsyncOpenAI, asyncio.Task[str]]
) -> None:
    own, others = occupied
    body = {**asked("translate", "golden castle " * 140), "max_tokens": 6}
    answer = await own.chat.completions.with_raw_response.create(**body)
    assert KV not in answer.headers
    assert others.done(), "it had no room before"
