"""The engine's socket: stream, submit, resume, sessions, malformed calls."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Any

import pytest

from engine.protocol import Cancel, Hello, Preempt, Revise
from tests.conftest import PATIENCE_S

LONG = 4000


def all_pages_free(stream: Any) -> bool:
    return bool(stream.steps) and stream.steps[-1].kv.free == stream.steps[-1].kv.pages


async def test_info_describes_the_model(gateway: Any, engine_model: Any) -> None:
    info = (await gateway.http.get("/info")).json()
    assert info["model"] == str(engine_model)
    assert (info["context_tokens"], info["vocabulary"], info["stop_ids"]) == (4096, 97, [2])
    assert info["kv"] == {"pages": 256, "free": 256, "page_tokens": 16}
    assert (info["device"], info["dtype"]) == ("cpu", "float32")
    assert info["dtype_reason"] == "the weights' own format"


async def test_tokens_stream_until_the_sequence_finishes(
    gateway: Any, a_sequence: Callable
) -> None:
    sequences = [a_sequence(), a_sequence(prompt=[7] * 600, max_tokens=3)]
    async with gateway.events() as stream:
        assert (await gateway.submit(*sequences)).refused == []
        await stream.until(lambda stream: len(stream.finishes) == 2)
    assert [len(stream.tokens(sequence.id)) for sequence in sequences] == [8, 3]
    assert {finish.reason for finish in stream.finishes.values()} == {"length"}
    numbers = [step.number for step in stream.steps]
    assert numbers == list(range(stream.hello.number + 1, stream.hello.number + 1 + len(numbers)))
    assert all_pages_free(stream)


async def test_a_cancelled_sequence_frees_its_pages(gateway: Any, a_sequence: Callable) -> None:
    sequence = a_sequence(max_tokens=LONG)
    async with gateway.events() as stream:
        await gateway.submit(sequence)
        await stream.until(lambda stream: stream.tokens(sequence.id))
        await gateway.operate(Cancel([sequence.id, "unknown"]))
        await stream.until(lambda stream: stream.finishes)
    assert stream.finishes[sequence.id].reason == "cancelled"
    assert (await gateway.stats())["free"] == 256


async def test_a_sequence_submitted_twice_runs_once(gateway: Any, a_sequence: Callable) -> None:
    first, last = a_sequence(), a_sequence()
    async with gateway.events() as stream:
        await gateway.submit(first)
        await gateway.submit(first)
        await stream.until(lambda stream: stream.finishes)
        await gateway.submit(first, last)
        await stream.until(lambda stream: last.id in stream.finishes)
    assert len(stream.tokens(first.id)) == 8


async def test_a_stream_resumes_where_it_broke_off(gateway: Any, a_sequence: Callable) -> None:
    sequence = a_sequence(max_tokens=200)
    async with gateway.events() as broken:
        await gateway.submit(sequence)
        await broken.until(lambda stream: len(stream.tokens(sequence.id)) > 5)
    async with gateway.events(after=broken.steps[-1].number) as resumed:
        await resumed.until(lambda stream: stream.finishes)
    assert not resumed.hello.lost
    assert len(broken.tokens(sequence.id) + resumed.tokens(sequence.id)) == 200
    assert resumed.steps[0].number == broken.steps[-1].number + 1


async def test_a_new_session_cancels_the_sequences_of_the_earlier_one(
    engine: Any, gateway: Any, connect: Callable, a_sequence: Callable
) -> None:
    earlier, later = a_sequence(max_tokens=LONG), a_sequence()
    async with gateway.events() as stream:
        await gateway.submit(earlier)
        await stream.until(lambda stream: stream.tokens(earlier.id))
        async with connect(engine) as other, other.events() as others:
            await stream.drained()
            await other.submit(later)
            await others.until(lambda stream: later.id in stream.finishes)
            assert all_pages_free(others)
    refused = await gateway.http.get("/events", params={"session": gateway.session, "after": 0})
    assert refused.status_code == 409
    assert "was replaced by" in refused.json()["error"]


async def test_the_sequences_of_a_disconnected_gateway_are_cancelled(
    gateway: Any, a_sequence: Callable
) -> None:
    sequences = [a_sequence(max_tokens=LONG) for _ in range(60)]
    await gateway.submit(*sequences)
    stats = before = await gateway.stats()
    end = monotonic() + PATIENCE_S
    while stats["cancelled"] == before["cancelled"] and monotonic() < end:
        await asyncio.sleep(0.1)
        stats = await gateway.stats()
    assert stats["free"] == 256
    async with gateway.events() as stream:
        await stream.until(lambda stream: len(stream.finishes) == 60)
    last = stream.finishes[sequences[-1].id]
    assert (last.reason, last.message) == ("cancelled", "the events connection was gone for 5 s")


async def test_a_tight_pool_preempts_and_finishes_everything(
    start_engine: Callable, connect: Callable, a_sequence: Callable
) -> None:
    engine = start_engine(LMAAS_KV_TOKENS="256", LMAAS_ENGINE_STEP_TOKENS="32")
    engine.wait_until_ready()
    sequences = [a_sequence(prompt=[n + 1] * 40, max_tokens=60, reserve=1) for n in range(8)]
    async with connect(engine) as gateway, gateway.events() as stream:
        await gateway.submit(*sequences)
        await gateway.operate(Revise({sequence.id: 50 for sequence in sequences}))
        await stream.until(lambda stream: len(stream.finishes) == 8)
        stats = await gateway.stats()
    assert [len(stream.tokens(sequence.id)) for sequence in sequences] == [60] * 8
    assert any(step.preempted for step in stream.steps)
    assert (stats["free"], stats["finished"], stats["failed"]) == (16, 8, 0)
    assert stats["preemptions"] == sum(len(step.preempted) for step in stream.steps)


async def test_running_sequences_are_limited_and_a_requested_preemption_makes_room(
    start_engine: Callable, connect: Callable, a_sequence: Callable
) -> None:
    engine = start_engine(LMAAS_MAX_RUNNING="4")
    engine.wait_until_ready()
    flood = [a_sequence(max_tokens=400, reserve=1, preempt_first=1) for _ in range(12)]
    newcomer = a_sequence(max_tokens=6)
    async with connect(engine) as gateway, gateway.events() as stream:
        info = (await gateway.http.get("/info")).json()
        await gateway.submit(*flood)
        await stream.until(lambda stream: len(stream.tokens(flood[3].id)) > 5)
        before = len(stream.steps)
        await gateway.submit(newcomer)
        await gateway.operate(Preempt([flood[0].id, flood[11].id]))
        await stream.until(lambda stream: newcomer.id in stream.finishes)
        taken = len(stream.steps) - before
        await gateway.operate(Cancel([sequence.id for sequence in flood]))
        await stream.until(lambda stream: len(stream.finishes) == 13)
    assert info["max_running"] == 4
    assert taken < 60
    assert [name for step in stream.steps for name in step.preempted] == [flood[0].id]
    assert max(step.running - step.suspended for step in stream.steps) == 4


async def test_invalid_sequences_are_refused_and_the_others_run(
    gateway: Any, a_sequence: Callable
) -> None:
    too_long, unknown_id = a_sequence(max_tokens=4094), a_sequence(prompt=[97])
    fine = a_sequence()
    async with gateway.events() as stream:
        answer = await gateway.submit(too_long, fine, unknown_id)
        await stream.until(lambda stream: fine.id in stream.finishes)
    assert {refused.id: refused.reason for refused in answer.refused} == {
        too_long.id: "prompt and max_tokens come to 4097 tokens, the engine's context is 4096",
        unknown_id.id: "token id 97 is outside the vocabulary of 97",
    }


async def test_a_submission_for_another_epoch_is_a_conflict(gateway: Any) -> None:
    body = {"session": gateway.session, "epoch": "earlier", "operations": []}
    answer = await gateway.http.post("/submit", json=body)
    assert answer.status_code == 409
    assert "the submission is for earlier" in answer.json()["error"]


@pytest.mark.parametrize(
    ("operations", "path"),
    [
        ([{"op": "dance"}], "Invalid value 'dance' - at `$.operations[0].op`"),
        ([{"op": "cancel"}], "missing required field `ids` - at `$.operations[0]`"),
        ([{"op": "cancel", "ids": [1]}], "Expected `str`, got `int` - at `$.operations[0].ids[0]`"),
        ([{"op": "revise", "remaining": {"s": -1}}], "Expected `int` >= 0"),
    ],
)
async def test_a_malformed_operation_is_reported_with_its_path(
    operations: list[Any], path: str, gateway: Any
) -> None:
    body = {"session": gateway.session, "epoch": gateway.epoch, "operations": operations}
    answer = await gateway.http.post("/submit", json=body)
    assert answer.status_code == 400
    assert path in answer.json()["error"]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"prompt": []}, "Expected `array` of length >= 1 - at `$.operations[0].sequences[0]"),
        ({"max_tokens": 0}, "Expected `int` >= 1"),
        ({"sampling": {"temperature": -1}}, "sequences[0].sampling.temperature"),
        ({"sampling": {"top_p": 0}}, "sequences[0].sampling.top_p"),
        ({"stop_ids": ["x"]}, "sequences[0].stop_ids[0]"),
    ],
)
async def test_a_malformed_sequence_is_reported_with_its_path(
    fields: dict[str, Any], path: str, gateway: Any
) -> None:
    sequence = {"id": "bad", "prompt": [1], "max_tokens": 1, "reserve": 1, **fields}
    operations = [{"op": "submit", "batch": "b", "sequences": [sequence]}]
    body = {"session": gateway.session, "epoch": gateway.epoch, "operations": operations}
    answer = await gateway.http.post("/submit", json=body)
    assert answer.status_code == 400
    assert path in answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
async def test_a_body_that_is_not_a_submission_is_a_bad_request(body: bytes, gateway: Any) -> None:
    answer = await gateway.http.post("/submit", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("the body is no submission: ")


async def test_an_oversized_body_is_rejected(gateway: Any) -> None:
    answer = await gateway.http.post("/submit", content=b" " * (64 * 2**20 + 1))
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "session is missing"),
        ("session=", "session is missing"),
        ("session=a&after=-1", "after must be a number, not '-1'"),
        ("session=a&after=" + "9" * 5000, "after must be a number"),
        ("session=a&after=%C2%B2", "after must be a number"),
    ],
)
async def test_a_malformed_query_is_a_bad_request(query: str, message: str, gateway: Any) -> None:
    answer = await gateway.http.get(f"/events?{query}")
    assert answer.status_code == 400
    assert message in answer.json()["error"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/"), ("POST", "/info"), ("GET", "/submit")])
async def test_an_unknown_route_lists_the_known_ones(method: str, path: str, gateway: Any) -> None:
    answer = await gateway.http.request(method, path)
    assert answer.status_code == 404
    assert f"no {method} {path}; there are GET /info" in answer.json()["error"]


async def test_a_stream_without_events_sends_heartbeats(gateway: Any) -> None:
    async with gateway.events() as stream:
        await stream.until(lambda stream: len(stream.events) == 2)
    hello, heartbeat = stream.events
    assert isinstance(hello, Hello)
    assert heartbeat.number == hello.number
