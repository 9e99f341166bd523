"""Tokens that no client reads as they come are sent together, where the server can."""

import asyncio

import pytest

from tests.integration.engines.upstream.conftest import a_sequence, connected
from tests.openai_server import Exchange, IntervalRule, OpenAiServer

SILENCE_S = 0.5


def numbers(last: int, count: int) -> list[int]:
    """The server's answer to a prompt that ends with `last`."""
    return list(range(last + 1, last + 1 + count))


@pytest.mark.parametrize(("rule", "can"), [("known", True), ("ignored", False), ("refused", False)])
async def test_server_shows_whether_it_can(
    server: OpenAiServer, rule: IntervalRule, can: bool
) -> None:
    server.intervals = rule
    async with connected(server) as listener:
        assert listener.infos[0].probed["intervals"] is can
        listener.submit(a_sequence("a", whole=True), a_sequence("b", last=50, whole=True))
        await listener.until(lambda: not listener.unfinished)
        assert listener.tokens == {"a": numbers(10, 6), "b": numbers(50, 6)}


async def test_one_stream_and_those_that_are_read_send_each_token(server: OpenAiServer) -> None:
    go = asyncio.Event()

    async def begin_and_wait(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.tokens(11)
        await exchange.tokens(12)
        await go.wait()
        await exchange.tokens(13, 14, 15, 16)
        await exchange.end()

    server.intervals, server.script = "known", [begin_and_wait]
    async with connected(server) as listener:
        listener.submit(a_sequence("each", whole=True))
        await listener.until(lambda: len(listener.tokens.get("each", [])) == 2)
        listener.submit(
            a_sequence("together", last=50, tokens=60, whole=True),
            a_sequence("read", last=120, tokens=60),
        )
        await listener.until(lambda: listener.unfinished == ["each"])
        go.set()
        await listener.end_of("each")
    asked = {each.body["prompt"][-1]: each.body.get("stream_interval") for each in server.seen}
    assert asked == {10: None, 50: 16, 120: None}
    assert listener.tokens == {
        "each": numbers(10, 6),
        "together": numbers(50, 60),
        "read": numbers(120, 60),
    }


async def test_answer_goes_on_from_the_tokens_that_came_together(server: OpenAiServer) -> None:
    go = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.tokens(11)
        await go.wait()
        await exchange.tokens(12, 13, 14, 15, 16)
        await exchange.end()

    async def cut_off(exchange: Exchange) -> None:
        await exchange.count(20)
        exchange.cut()

    server.intervals, server.script = "known", [wait, cut_off]
    async with connected(server) as listener:
        listener.submit(a_sequence("each", whole=True))
        await listener.until(lambda: listener.tokens.get("each"))
        listener.submit(a_sequence("cut", last=50, tokens=60, whole=True))
        await listener.end_of("cut")
        go.set()
        await listener.end_of("each")
    assert server.seen[1].body["stream_interval"] == 16
    assert listener.tokens["cut"] == numbers(50, 60)
    resumed = [each.body["prompt"] for each in server.seen if len(each.body["prompt"]) > 2]
    assert resumed == [[5, 50, *numbers(50, 20)]]


async def test_silence_is_longer_while_no_stream_sends_each_token(server: OpenAiServer) -> None:
    go, held = asyncio.Event(), asyncio.Event()

    async def end_at_once(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.tokens(11)
        await go.wait()
        await exchange.tokens(12)
        await exchange.end()

    async def pause_twice_as_long(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.tokens(51)
        held.set()
        await asyncio.sleep(2 * SILENCE_S)
        await exchange.tokens(*numbers(51, 5))
        await exchange.end()

    server.intervals, server.script = "known", [end_at_once, pause_twice_as_long]
    async with connected(server, silence_s=SILENCE_S) as listener:
        listener.submit(a_sequence("each", tokens=2, whole=True))
        await listener.until(lambda: listener.tokens.get("each"))
        listener.submit(a_sequence("together", last=50, whole=True))
        await held.wait()
        go.set()
        await listener.until(lambda: not listener.unfinished)
    assert listener.tokens["together"] == numbers(50, 6)
    assert not sum(step.retries for step in listener.steps)
