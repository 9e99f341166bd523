"""Sessions: only the current one's sequences run, each once."""

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from engine.errors import ConflictingCall
from engine.protocol import (
    Cancel,
    Drain,
    EngineInfo,
    Event,
    Finish,
    Heartbeat,
    Hello,
    KvState,
    Operation,
    Pin,
    Revise,
    Step,
    Submission,
    SubmitBatch,
)
from engine.service.events import EventLog, EventReader
from engine.service.sessions import MAX_PINS, Sessions
from engine.step.commands import Command, RefusePins, Reset, Start, Stop
from engine.step.seen_ids import SeenIds
from tests.conftest import PATIENCE_S

KV = KvState(pages=16, free=16, page_tokens=4)
INFO = EngineInfo(
    epoch="e", model="m", context_tokens=64, vocabulary=97, stop_ids=[], kv=KV, device="cpu",
    dtype="float32",
)  # fmt: skip


class SessionsHarness:
    """Sessions, and the commands that they issued."""

    def __init__(self, max_disconnected_s: float = 30.0, max_events: int = 4) -> None:
        self.commands: list[Command] = []
        self.events = EventLog(max_events)
        self.command_put = asyncio.Event()
        self.sessions = Sessions(INFO, self.events, self._put, max_disconnected_s)

    def _put(self, command: Command) -> None:
        self.commands.append(command)
        self.command_put.set()

    def submit(self, *operations: Operation, session: str = "a", epoch: str = "e") -> list[str]:
        """The reasons of the refused sequences."""
        answer = self.sessions.submit(Submission(session, epoch, list(operations)))
        return [refused.reason for refused in answer.refused]

    def step(self, **fields: object) -> None:
        number = self.events.newest + 1
        self.sessions.publish(Step(**{"number": number, "kv": KV, "tokens": {}, **fields}))

    @property
    def started(self) -> list[str]:
        return [
            s.id
            for command in self.commands
            if isinstance(command, Start)
            for s in command.sequences
        ]


async def events(reader: EventReader) -> AsyncIterator[Event]:
    async for lines in reader.lines():
        for line in lines.splitlines():
            yield msgspec.json.decode(line, type=Event)


async def read(count: int, reader: EventReader) -> list[Event]:
    async with asyncio.timeout(PATIENCE_S):
        stream = events(reader)
        return [await anext(stream) for _ in range(count)]


async def test_a_sequence_submitted_again_is_not_run_again(a_sequence: Callable) -> None:
    harness = SessionsHarness()
    batch = SubmitBatch("b", [a_sequence("s")])
    assert harness.submit(batch, batch) == []
    harness.step(finished=[Finish("s", "length")])
    assert harness.submit(SubmitBatch("b", [a_sequence("s"), a_sequence("t")])) == []
    assert harness.started == ["s", "t"]


async def test_a_returned_sequence_runs_again_under_a_new_id_alone(a_sequence: Callable) -> None:
    harness = SessionsHarness()
    batch = SubmitBatch("b", [a_sequence("s"), a_sequence("t")])
    harness.submit(batch)
    harness.step(returned=["s", "t"])
    harness.submit(batch)  # repeated: its first answer was lost
    harness.submit(SubmitBatch("half", [a_sequence("s2")]), batch)
    assert harness.started == ["s", "t", "s2"]
    assert harness.sessions._seen._unfinished == {"s2"}  # the others may be forgotten in time


async def test_cancel_and_revise_are_passed_on_in_order(a_sequence: Callable) -> None:
    harness = SessionsHarness()
    harness.submit(SubmitBatch("b", [a_sequence("s")]), Revise({"s": 4}), Cancel(["s"]))
    assert harness.commands[1:] == [Revise({"s": 4}), Stop(["s"])]


async def test_pins_come_with_the_sequences_that_they_are_for(a_sequence: Callable) -> None:
    harness = SessionsHarness()
    batch = SubmitBatch("b", [a_sequence("s")], [Pin("group", [1, 2], "", 2)])
    harness.submit(batch, batch)
    assert harness.commands == [
        Start([a_sequence("s")], (Pin("group", [1, 2], "", 2),)),
        Start([], (Pin("group", [1, 2], "", 2),)),
    ]


@pytest.mark.parametrize("tokens", [[97], [-1], [1] * 65])
async def test_a_pin_that_no_sequence_can_have_is_reported_as_lost(
    tokens: list[int], a_sequence: Callable
) -> None:
    harness = SessionsHarness()
    harness.submit(SubmitBatch("b", [a_sequence("s")], [Pin("bad", tokens), Pin("good", [1])]))
    harness.submit(Pin("bad", tokens))
    assert harness.commands == [
        RefusePins(("bad",)),
        Start([a_sequence("s")], (Pin("good", [1]),)),
        RefusePins(("bad",)),
    ]


async def test_a_submission_has_a_limited_number_of_pins(a_sequence: Callable) -> None:
    harness = SessionsHarness()
    pins = [Pin(f"p{number}", [1]) for number in range(MAX_PINS + 2)]
    harness.submit(SubmitBatch("b", [a_sequence("s")], pins))
    refused, started = harness.commands
    assert refused == RefusePins((f"p{MAX_PINS}", f"p{MAX_PINS + 1}"))
    assert isinstance(started, Start)
    assert len(started.pins) == MAX_PINS


async def test_a_draining_engine_makes_no_pins(a_sequence: Callable) -> None:
    harness = SessionsHarness()
    harness.submit(Drain(), SubmitBatch("b", [a_sequence("s")], [Pin("group", [1])]))
    assert harness.commands == [RefusePins(("group",))]


async def test_a_submission_for_another_epoch_is_a_conflict(a_sequence: Callable) -> None:
    harness = SessionsHarness()
    with pytest.raises(ConflictingCall, match="the epoch is e, the submission is for other"):
        harness.submit(SubmitBatch("b", [a_sequence("s")]), epoch="other")
    assert harness.commands == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"prompt": [1] * 50, "max_tokens": 15}, "come to 65 tokens, the engine's context is 64"),
        ({"prompt": [97]}, "token id 97 is outside the vocabulary of 97"),
        ({"prompt": [3, -1]}, "token id -1 is outside"),
        ({"stop_ids": [2**80]}, f"token id {2**80} is outside"),
        ({"generated": [1] * 9}, "9 tokens are generated, max_tokens is 8"),
    ],
)
async def test_a_sequence_that_can_never_run_is_refused_with_the_reason(
    fields: dict[str, object], reason: str, a_sequence: Callable
) -> None:
    harness = SessionsHarness()
    [refused] = harness.submit(SubmitBatch("b", [a_sequence("bad", **fields), a_sequence("good")]))
    assert reason in refused
    assert harness.started == ["good"]


async def test_a_new_session_drops_the_sequences_of_the_earlier_one(a_sequence: Callable) -> None:
    harness = SessionsHarness()
    harness.submit(SubmitBatch("b", [a_sequence("s")]))
    harness.submit(SubmitBatch("b", [a_sequence("s")]), session="b")
    assert [type(command) for command in harness.commands] == [Start, Reset, Start]
    with pytest.raises(ConflictingCall, match="session a was replaced by b"):
        harness.submit()


async def test_a_new_session_ends_the_streams_of_the_earlier_one() -> None:
    harness = SessionsHarness()
    stream = events(harness.sessions.open("a", 0))
    assert await anext(stream) == Hello("e", 0)
    harness.sessions.open("b", 0)
    assert [event async for event in stream] == []


async def test_a_new_session_reads_no_event_of_the_earlier_one() -> None:
    harness = SessionsHarness()
    harness.sessions.open("a", 0)
    for _ in range(9):
        harness.step()
    reader = harness.sessions.open("b", 0)
    harness.step(running=3)
    hello, step = await read(2, reader)
    assert hello == Hello("e", 10, lost=False)
    assert isinstance(step, Step)
    assert (step.number, step.running) == (10, 3)


async def test_sequences_are_cancelled_without_a_reader_for_too_long(a_sequence: Callable) -> None:
    harness = SessionsHarness(max_disconnected_s=0.02)
    reader = harness.sessions.open("a", 0)
    harness.submit(SubmitBatch("b", [a_sequence("s")]))
    await asyncio.sleep(0.05)
    assert [type(command) for command in harness.commands] == [Start]
    harness.command_put.clear()
    harness.sessions.closed(reader)
    await asyncio.wait_for(harness.command_put.wait(), 10)
    assert harness.commands[1:] == [Stop(None, "the events connection was gone for 0.02 s")]


async def test_sequences_submitted_after_a_cancellation_are_cancelled_too(
    a_sequence: Callable,
) -> None:
    harness = SessionsHarness(max_disconnected_s=0.02)
    for name in "st":
        harness.submit(SubmitBatch("b", [a_sequence(name)]))
        harness.command_put.clear()
        await asyncio.wait_for(harness.command_put.wait(), 10)
    assert [type(command) for command in harness.commands] == [Start, Stop, Start, Stop]


async def test_a_stream_opened_in_time_keeps_the_sequences() -> None:
    harness = SessionsHarness(max_disconnected_s=0.02)
    harness.sessions.closed(harness.sessions.open("a", 0))
    harness.sessions.open("a", 0)
    await asyncio.sleep(0.05)
    assert harness.commands == []


async def test_a_stream_resumes_after_the_requested_event() -> None:
    harness = SessionsHarness()
    harness.sessions.open("a", 0)
    for _ in range(4):
        harness.step()
    hello, *rest = await read(3, harness.sessions.open("a", 2))
    assert hello == Hello("e", 4, lost=False)
    assert [step.number for step in rest] == [3, 4]


async def test_a_stream_reports_lost_events() -> None:
    harness = SessionsHarness(max_events=4)
    harness.sessions.open("a", 0)
    for _ in range(6):
        harness.step()
    hello, *rest = await read(5, harness.sessions.open("a", 1))
    assert hello == Hello("e", 6, lost=True)
    assert [step.number for step in rest] == [3, 4, 5, 6]


async def test_a_reader_that_fell_behind_the_ring_is_ended() -> None:
    harness = SessionsHarness(max_events=4)
    stream = events(harness.sessions.open("a", 0))
    await anext(stream)
    for _ in range(5):
        harness.step()
    assert [event async for event in stream] == []


async def test_a_number_from_another_epoch_reads_the_next_events() -> None:
    harness = SessionsHarness()
    reader = harness.sessions.open("a", 500)
    harness.step()
    assert [event.number for event in await read(2, reader)] == [1, 1]


async def test_a_stream_without_events_sends_heartbeats() -> None:
    reader = EventReader(EventLog(), "e", 0, heartbeat_s=0.01)
    assert await read(3, reader) == [Hello("e", 0), Heartbeat(0), Heartbeat(0)]


def test_unfinished_ids_are_kept_and_old_finished_ones_dropped() -> None:
    seen = SeenIds(max_finished=2)
    for name in "abcd":
        seen.add(name)
    seen.finish("abc")
    assert [name for name in "abcd" if name in seen] == ["b", "c", "d"]
