"""What each failure of a server leads to: the table of docs/upstream.md, line by line."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from engine.protocol import Grammar
from gateway.engines.upstream import health, sequence_stream, stream_pool
from gateway.engines.upstream.exposition import ServerLoad, read_load
from tests.integration.engines.upstream.conftest import (
    Listener,
    a_sequence,
    connected,
    started,
)
from tests.openai_server import VOCABULARY, Answer, Exchange, Fault, OpenAiServer

ANSWER = [11, 12, 13, 14, 15, 16]


async def hang(_: Exchange) -> None:
    await asyncio.Event().wait()


async def begin_and_hang(exchange: Exchange) -> None:
    await exchange.count(2)
    await hang(exchange)


async def cut_off(exchange: Exchange) -> None:
    await exchange.count(2)
    exchange.cut()


async def end_early(exchange: Exchange) -> None:
    await exchange.count(2)
    await exchange.end(None)


async def garbage(exchange: Exchange) -> None:
    await exchange.count(2)
    await exchange.raw(b"data: {not json\n\n")
    await exchange.end()


async def error_event(exchange: Exchange) -> None:
    await exchange.count(2)
    await exchange.raw(b'data: {"error": {"message": "out of luck", "code": 500}}\n\n')
    await exchange.end(None)


async def endless_line(exchange: Exchange) -> None:
    await exchange.count(2)
    for _ in range(40):
        await exchange.raw(b"x" * 65_536)
    await hang(exchange)


async def aborted(exchange: Exchange) -> None:
    await exchange.count(2)
    await exchange.end("abort")


async def unavailable(exchange: Exchange) -> None:
    await exchange.send(500, {"error": {"message": "broken"}})


async def busy(exchange: Exchange) -> None:
    await exchange.send(429, {"error": "too many"}, {"Retry-After": "0"})


async def refuse(exchange: Exchange) -> None:
    await exchange.send(400, {"error": {"message": "no such parameter"}})


async def busy_until_a_date(exchange: Exchange) -> None:
    headers = {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}
    await exchange.send(503, {"error": {"message": "overloaded"}}, headers)


async def trickle(exchange: Exchange) -> None:
    """Deliver the same token again and again."""
    await exchange.begin()
    while not exchange.closes:
        await exchange.tokens(7)
        await asyncio.sleep(0.01)


async def foreign_token(exchange: Exchange) -> None:
    await exchange.begin()
    await exchange.tokens(VOCABULARY)
    await exchange.end()


@pytest.fixture
async def listener(server: OpenAiServer) -> AsyncIterator[Listener]:
    async with connected(server, silence_s=0.2) as listener:
        yield listener


async def test_stream_delivers_tokens_and_the_end(server: OpenAiServer, listener: Listener) -> None:
    listener.submit(a_sequence())
    assert (await listener.end_of("a")).reason == "length"
    assert listener.tokens["a"] == ANSWER
    assert server.seen[0].body["prompt"] == [5, 10]


@pytest.mark.parametrize(
    "failure", [cut_off, end_early, garbage, error_event, endless_line, aborted, begin_and_hang]
)
async def test_broken_stream_goes_on_from_the_tokens_that_came(
    server: OpenAiServer, listener: Listener, failure: Answer
) -> None:
    server.script = [failure]
    listener.submit(a_sequence(), a_sequence("b", last=50))
    await listener.until(lambda: not listener.unfinished)
    assert listener.tokens == {"a": ANSWER, "b": [51, 52, 53, 54, 55, 56]}
    assert not listener.losses
    resumed = [each.body for each in server.seen if each.body["prompt"] == [5, 10, 11, 12]]
    assert [body["max_tokens"] for body in resumed] == [4]
    assert sum(step.retries for step in listener.steps) == 1


@pytest.mark.parametrize("failure", [hang, unavailable])
async def test_answer_that_does_not_begin_is_asked_for_again(
    server: OpenAiServer, listener: Listener, failure: Answer
) -> None:
    server.script = [failure]
    listener.submit(a_sequence())
    assert (await listener.end_of("a")).reason == "length"
    assert listener.tokens["a"] == ANSWER


async def test_retries_are_bounded(server: OpenAiServer, listener: Listener) -> None:
    server.script = [unavailable] * 10
    listener.submit(a_sequence())
    end = await listener.end_of("a")
    assert (end.reason, len(server.seen)) == ("error", 5)
    assert "status 500: broken" in str(end.message)


@pytest.mark.parametrize("failure", [busy, busy_until_a_date])
async def test_busy_server_is_asked_again_when_it_says(
    server: OpenAiServer,
    listener: Listener,
    failure: Answer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream_pool, "BUSY_S", 0.01)
    server.script = [failure, failure]
    listener.submit(a_sequence(), a_sequence("b", last=50))
    await listener.until(lambda: not listener.unfinished)
    assert listener.tokens["a"] == ANSWER
    assert len(server.seen) >= 3


async def test_server_that_stays_busy_ends_the_request(
    server: OpenAiServer, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_pool, "BUSY_PATIENCE_S", 0.05)
    server.script = [busy] * 10_000
    listener.submit(a_sequence())
    end = await listener.end_of("a")
    assert "too busy" in str(end.message)


async def test_request_at_fault_is_refused_and_no_other(
    server: OpenAiServer, listener: Listener
) -> None:
    server.script = [refuse]
    listener.submit(a_sequence(), a_sequence("b", last=50))
    await listener.until(lambda: not listener.unfinished)
    assert "no such parameter" in listener.refused["a"]
    assert listener.tokens == {"b": [51, 52, 53, 54, 55, 56]}


async def test_token_outside_the_vocabulary_names_the_wrong_model(
    server: OpenAiServer, listener: Listener
) -> None:
    server.script = [foreign_token]
    listener.submit(a_sequence())
    await listener.until(lambda: listener.refused)
    assert "not the model that the server runs" in listener.refused["a"]


@pytest.mark.parametrize("failure", [hang, begin_and_hang])
async def test_hung_stream_goes_on_in_another_one_while_others_get_tokens(
    server: OpenAiServer, listener: Listener, failure: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_pool, "HUNG_SILENCES", 1)
    server.script = [failure, trickle]
    listener.submit(a_sequence())
    while not server.seen:
        await asyncio.sleep(0)
    listener.submit(a_sequence("b", tokens=100_000))
    assert (await listener.end_of("a")).reason == "length"
    assert listener.tokens["a"] == ANSWER
    assert listener.unfinished == ["b"]
    assert not listener.losses


async def test_server_that_goes_on_beyond_the_limit_is_stopped(
    server: OpenAiServer, listener: Listener
) -> None:
    server.script = [trickle]
    listener.submit(a_sequence())
    assert (await listener.end_of("a")).reason == "length"
    assert listener.tokens["a"] == [7] * 6
    while not server.aborted:
        await asyncio.sleep(0.01)


async def test_server_that_fails_every_request_is_lost_if_there_are_others(
    server: OpenAiServer,
) -> None:
    async with connected(server, others=True) as listener:
        server.script = [unavailable] * 5
        listener.submit(a_sequence())
        await listener.until(lambda: listener.losses)
        await listener.end_of("a")
    assert listener.tokens["a"] == ANSWER


async def test_request_that_alone_fails_ends_where_there_are_others(
    server: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence_stream, "BACKOFF_S", (0.1,) * 4)

    async def fail_by_turns(exchange: Exchange) -> None:
        await (unavailable if exchange.body["prompt"][-1] == 10 else trickle)(exchange)

    async with connected(server, others=True) as listener:
        server.script = [fail_by_turns] * 10
        listener.submit(a_sequence("b", last=50, tokens=100_000))
        await listener.until(lambda: listener.tokens)
        listener.submit(a_sequence())
        assert (await listener.end_of("a")).reason == "error"
        assert not listener.losses


async def test_failure_of_the_watch_loses_the_server_and_connects_again(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = iter([ValueError("a fault of ours")])

    def fail_once(text: bytes) -> ServerLoad | None:
        fault = next(faults, None)
        if fault is not None:
            raise fault
        return read_load(text)

    monkeypatch.setattr(health, "read_load", fail_once)
    await listener.until(lambda: listener.losses)
    listener.submit(a_sequence())
    await listener.end_of("a")
    assert len(listener.infos) == 2


async def test_lost_server_resumes_everything_when_it_is_back(
    server: OpenAiServer, listener: Listener
) -> None:
    server.script = [begin_and_hang] * 3
    listener.submit(*(a_sequence(name, last=last) for name, last in (("a", 10), ("b", 50))))
    await listener.until(lambda: len(listener.tokens) == 2)
    await server.stop()
    await listener.until(lambda: listener.losses)
    server.script = []
    await server.start()
    await listener.until(lambda: not listener.unfinished)
    assert listener.tokens == {"a": ANSWER, "b": [51, 52, 53, 54, 55, 56]}
    assert len(listener.infos) == 2


async def test_key_that_is_revoked_loses_the_server_until_it_is_valid(
    server: OpenAiServer, listener: Listener
) -> None:
    server.key = "other"
    listener.submit(a_sequence())
    await listener.until(lambda: listener.losses)
    server.key = None
    await listener.end_of("a")
    assert listener.tokens["a"] == ANSWER


async def test_model_that_disappears_loses_the_server(
    server: OpenAiServer, listener: Listener
) -> None:
    async def missing(exchange: Exchange) -> None:
        server.models = [{"id": "another"}, {"id": "third"}]
        await exchange.send(404, {"error": {"message": "no model"}})

    server.script = [missing]
    listener.submit(a_sequence())
    await listener.until(lambda: listener.losses)
    server.models = [{"id": "model", "owned_by": "vllm", "max_model_len": 64}]
    await listener.end_of("a")
    assert listener.infos[-1].context_tokens == 64


async def test_grammar_is_generated_again_from_its_start(
    server: OpenAiServer, listener: Listener
) -> None:
    server.script = [cut_off]
    grammar = Grammar("json_schema", json.dumps({"type": "object"}))
    listener.submit(a_sequence(grammar=grammar))
    await listener.end_of("a")
    assert listener.tokens["a"] == ANSWER
    assert [each.body["prompt"] for each in server.seen] == [[5, 10], [5, 10]]


async def test_grammar_whose_text_differs_the_second_time_fails(
    server: OpenAiServer, listener: Listener
) -> None:
    async def other(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.tokens(99)

    server.script = [cut_off, other]
    listener.submit(a_sequence(grammar=Grammar("json_schema", "{}")))
    assert "within a grammar" in str((await listener.end_of("a")).message)


async def test_start_fails_where_the_key_is_refused(server: OpenAiServer) -> None:
    server.key = "right"
    async with started(server, key="wrong") as listener:
        assert "LMAAS_UPSTREAM_API_KEY" in str(await listener.client.failed())
    async with connected(server, key="right"):
        pass


async def test_start_fails_where_the_model_is_unknown(server: OpenAiServer) -> None:
    server.models = [{"id": "x"}, {"id": "y"}]
    async with started(server) as listener:
        assert "LMAAS_UPSTREAM_MODEL names one that it serves: x, y" in str(
            await listener.client.failed()
        )


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_answer_of_what_stands_before_a_server_is_waited_out(
    server: OpenAiServer, status: int
) -> None:
    server.faults = [(status, "no healthy upstream", {})] * 7
    async with connected(server) as listener:
        assert not server.faults
        assert not listener.phases, "it does not load a model"


async def test_server_that_loads_its_model_says_so_for_a_bounded_time(
    server: OpenAiServer,
) -> None:
    loading: Fault = (503, {"error": {"message": "Loading model"}}, {})
    server.faults = [loading] * 3
    async with connected(server) as listener:
        assert listener.phases == ["Loading model"] * 3
    server.faults = [loading] * 10
    async with connected(server, start_s=0.0) as listener:
        assert len(listener.phases) <= 1


async def test_momentary_fault_takes_no_capability_away(server: OpenAiServer) -> None:
    async with connected(server) as listener:
        whole = listener.infos[0].probed
    assert (whole["salts"], whole["grammars"]) == (True, "json_schema, regex, lark")
    for place in range(1, 14):
        server.fault_in = place
        async with connected(server) as listener:
            assert listener.infos[0].probed == whole
        assert server.fault_in == 0, "a probe asks as often"


async def test_fields_that_a_server_ignores_are_not_its_own(server: OpenAiServer) -> None:
    server.ignored = {"cache_salt", "structured_outputs"}
    async with connected(server) as listener:
        probed = listener.infos[0].probed
    assert (probed["salts"], probed["grammars"]) == (False, "")


async def test_server_that_refuses_connections_is_waited_for(server: OpenAiServer) -> None:
    await server.stop()
    async with started(server) as listener:
        await asyncio.sleep(0.1)
        assert not listener.infos
        await server.start()
        await listener.until(lambda: listener.infos)
