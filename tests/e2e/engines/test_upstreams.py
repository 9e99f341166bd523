"""A gateway in front of two servers of one model, which are small servers of this process."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.conftest import PATIENCE_S
from tests.openai_server import Exchange, OpenAiServer, openai_server

Asked = Callable[..., dict[str, Any]]
KEYS = ("first-key", "second-key")
FIRST = 100  # token of an answer; those of prompts end in a lower one
TOKENS_BEFORE = 3


@pytest.fixture
async def servers() -> AsyncIterator[list[OpenAiServer]]:
    async with AsyncExitStack() as stack:
        started = [await stack.enter_async_context(openai_server()) for _ in KEYS]
        for server, key in zip(started, KEYS, strict=True):
            server.key = key
        yield started


@pytest.fixture
async def front(servers: list[OpenAiServer], serve: Any) -> AsyncIterator[Any]:
    """A gateway in front of both."""
    gateway = serve("upstreams", **named(servers))
    yield await gateway.ready()
    assert await gateway.stop() == 0, gateway.errors.read_text()


def named(servers: list[OpenAiServer]) -> dict[str, str]:
    return {
        "LMAAS_UPSTREAM": " ".join(server.url for server in servers),
        "LMAAS_UPSTREAM_API_KEY": ",".join(KEYS),
        "LMAAS_UPSTREAM_MAX_RUNNING": "8",
    }


class Held:
    """Answers of 100, 101, … that deliver some tokens, and the rest once they are let go."""

    def __init__(self) -> None:
        self.released = asyncio.Event()

    async def answer(self, exchange: Exchange) -> None:
        await exchange.begin()
        following = max(exchange.body["prompt"][-1] + 1, FIRST)  # it may go on with an answer
        for number in range(exchange.body["max_tokens"]):
            if number == TOKENS_BEFORE:
                await self.released.wait()
            await exchange.tokens(following + number)
        await exchange.end()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_lost_server_s_answers_are_ended_by_the_other(
    front: Any, servers: list[OpenAiServer], asked: Asked
) -> None:
    held = Held()
    for server in servers:
        server.script = [held.answer] * 100
    request = asked("spell", "a word", max_tokens=20)
    async with front.client() as client:
        answers = [asyncio.create_task(client.chat.completions.create(**request)) for _ in range(6)]
        await until(lambda: sum(server.open for server in servers) == 6)
        assert all(server.open for server in servers)
        await servers[0].stop()
        await until(lambda: servers[1].open == 6)
        continued = [each.body["prompt"][-1] for each in servers[1].seen]
        assert max(continued) == FIRST + TOKENS_BEFORE - 1, "from the tokens that had come"
        held.released.set()
        ended = await asyncio.gather(*answers)
    assert {answer.usage.completion_tokens for answer in ended} == {20}
    assert len({answer.choices[0].message.content for answer in ended}) == 1
    assert {answer.choices[0].finish_reason for answer in ended} == {"length"}
    await servers[0].start()
    async with asyncio.timeout(PATIENCE_S):
        while not all(each["connected"] for each in await shown(front)):
            await asyncio.sleep(0.02)
    before = len(servers[0].seen)
    async with front.client() as client:
        await asyncio.gather(*(client.chat.completions.create(**request) for _ in range(6)))
    assert len(servers[0].seen) > before


async def test_each_server_is_shown_with_its_address(
    front: Any, servers: list[OpenAiServer]
) -> None:
    engines = await shown(front)
    assert [each["info"]["device"] for each in engines] == [server.url for server in servers]
    async with front.admin() as admin:
        joint = (await admin.get("/admin/engine")).json()
    assert joint["kv"]["pages"] == sum(each["kv"]["pages"] for each in engines)


async def test_server_of_another_model_fails_the_start(
    servers: list[OpenAiServer], serve: Any
) -> None:
    servers[1].models[0]["id"] = "another"
    gateway = serve("differing", **named(servers))
    assert await asyncio.to_thread(gateway.process.wait, PATIENCE_S) != 0
    errors = gateway.errors.read_text()
    assert "the model another" in errors
    assert servers[1].url in errors


async def shown(gateway: Any) -> list[dict[str, Any]]:
    async with gateway.admin() as admin:
        return list((await admin.get("/admin/engine")).json()["engines"])
