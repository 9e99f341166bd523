"""What the client submits, stops and reports while its server is well."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from engine.protocol import BACKGROUND, Sampling
from tests.integration.engines.upstream.conftest import Listener, a_sequence, connected
from tests.openai_server import Exchange, OpenAiServer


class Gate:
    """Answers that deliver a token and wait until the gate opens."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def answer(self, exchange: Exchange) -> None:
        await exchange.count(1)
        await self.opened.wait()
        await exchange.end("stop")


@pytest.fixture
async def gate(server: OpenAiServer) -> Gate:
    gate = Gate()
    server.script = [gate.answer] * 100
    return gate


@pytest.fixture
async def listener(server: OpenAiServer) -> AsyncIterator[Listener]:
    async with connected(server, max_running=2) as listener:
        yield listener


def names(count: int) -> list[str]:
    return [f"s{number}" for number in range(count)]


async def test_server_is_given_what_it_runs_and_a_short_queue(
    server: OpenAiServer, listener: Listener, gate: Gate
) -> None:
    assert listener.infos[0].max_running == 6
    listener.submit(*(a_sequence(name, last=10 + n) for n, name in enumerate(names(12))))
    await listener.until(lambda: len(listener.tokens) == 6)
    assert server.open == 6
    gate.opened.set()
    await listener.until(lambda: not listener.unfinished)
    assert len(server.seen) == 12


async def test_jobs_start_after_others(
    server: OpenAiServer, listener: Listener, gate: Gate
) -> None:
    listener.submit(*(a_sequence(name) for name in names(6)))
    await listener.until(lambda: server.open == 6)
    listener.submit(
        a_sequence("job", last=90, preempt_first=BACKGROUND), a_sequence("late", last=80)
    )
    gate.opened.set()
    await listener.until(lambda: not listener.unfinished)
    assert [each.body["prompt"][-1] for each in server.seen[6:]] == [80, 90]


async def test_cancelled_sequence_is_stopped_at_the_server(
    server: OpenAiServer, listener: Listener, gate: Gate
) -> None:
    listener.submit(a_sequence())
    await listener.until(lambda: listener.tokens)
    listener.client.cancel(["a"])
    while not server.aborted:
        await asyncio.sleep(0.01)
    listener.submit(a_sequence("b"))
    gate.opened.set()
    await listener.end_of("b")
    assert "a" not in listener.finished


async def test_preempted_sequence_goes_on_when_there_is_room(
    listener: Listener, gate: Gate
) -> None:
    listener.submit(a_sequence(prompt=[5] * 400 + [10]), a_sequence("b", last=50))
    await listener.until(lambda: len(listener.tokens) == 2)
    listener.client.preempt(["a"])
    listener.submit(a_sequence("urgent", last=70, prompt=[5] * 400 + [70]))
    await listener.until(lambda: "urgent" in listener.tokens)
    assert [step.preempted for step in listener.steps if step.preempted] == [["a"]]
    gate.opened.set()
    await listener.end_of("urgent")
    assert (await listener.end_of("a")).reason == "stop"
    assert listener.tokens["a"] == [11, 12]


async def test_stop_id_ends_an_answer_and_is_not_part_of_it(listener: Listener) -> None:
    listener.submit(a_sequence(last=10, stop_ids=[2, 13]))
    end = await listener.end_of("a")
    assert (end.reason, end.stop_id, listener.tokens["a"]) == ("stop", 13, [11, 12])


async def test_preemptions_at_the_server_are_counted(
    server: OpenAiServer, listener: Listener
) -> None:
    while not server.preemptions:
        await asyncio.sleep(0.1)  # the first reading
        server.preemptions = 3
    await asyncio.sleep(0.2)
    listener.submit(a_sequence())
    await listener.end_of("a")
    assert sum(step.unnamed_preemptions for step in listener.steps) == 3


async def test_steps_report_work_and_memory(listener: Listener, gate: Gate) -> None:
    listener.submit(a_sequence("a", prompt=[5] * 40 + [10]), a_sequence("b", last=50))
    await listener.until(lambda: len(listener.tokens) == 2)
    assert listener.infos[0].kv.pages == 64
    assert listener.steps[-1].kv.free == 64 - 3 - 1
    assert listener.steps[-1].running == 2
    gate.opened.set()
    await listener.until(lambda: not listener.unfinished)
    work = [step.work for step in listener.steps if step.work is not None]
    assert sum(each.prompt_tokens for each in work) == 43
    assert (listener.steps[-1].running, listener.steps[-1].kv.free) == (0, 64)


async def test_hints_and_priority_reach_a_server_that_takes_them(server: OpenAiServer) -> None:
    server.takes_priority = True
    hints = frozenset({"priority", "nvext", "llm-d"})
    async with connected(server, hints=hints) as listener:
        listener.submit(a_sequence(expected=9, salt="tenant", preempt_first=1))
        await listener.end_of("a")
    asked = server.seen[0]
    assert asked.body["priority"] == 2**32 + 9
    assert asked.body["nvext"] == {"agent_hints": {"osl": 9}}
    assert asked.headers["x-llm-d-inference-fairness-id"] == "tenant"


async def test_nothing_but_the_request_is_sent_without_hints(
    server: OpenAiServer, listener: Listener
) -> None:
    listener.submit(a_sequence(expected=9, salt="tenant", sampling=Sampling(seed=3)))
    await listener.end_of("a")
    assert not {"priority", "nvext"} & server.seen[0].body.keys()
    assert not [name for name in server.seen[0].headers if "fairness" in name]
