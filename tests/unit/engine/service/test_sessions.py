"""Sessions: whose sequences run, and each of them once."""

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from engine.errors import ConflictingCall
from engine.protocol import (
    Cancel,
    EngineInfo,
    Event,
    Finish,
    Heartbeat,
    Hello,
    KvState,
    Operation,
    Revise,
    Step,
    Submission,
    SubmitBatch,
)
from engine.service.events import EventLog, EventReader
from engine.service.sessions import Sessions
from engine.step.commands import Forget, Order, Start, Stop
from engine.step.seen_ids import KnownSequences
from tests.conftest import PATIENCE_S

KV = KvState(pages=16, free=16, page_tokens=4)
INFO = EngineInfo(
    epoch="e", model="m", context_tokens=64, vocabulary=97, stop_ids=[], kv=KV, device="cpu",
    dtype="float32",
)  # fmt: skip


class Desk:
    """Sessions, and the orders they gave."""

    def __init__(self, gone_s: float = 30.0, kept: int = 4) -> None:
        self.orders: list[Order] = []
        self.events = EventLog(kept)
        self.given = asyncio.Event()
        self.sessions = Sessions(INFO, self.events, self._put, gone_s)

    def _put(self, order: Order) -> None:
        self.orders.append(order)
        self.given.set()

    def submit(self, *operations: Operation, session: str = "a", epoch: str = "e") -> list[str]:
        """The reasons of what was refused."""
        answer = self.sessions.submit(Submission(session, epoch, list(operations)))
        return [refused.reason for refused in answer.refused]

    def step(self, **fields: object) -> None:
        number = self.events.newest + 1
        self.sessions.publish(Step(**{"number": number, "kv": KV, "tokens": {}, **fields}))

    @property
    def started(self) -> list[str]:
        return [s.id for order in self.orders if isinstance(order, Start) for s in order.sequences]


async def events(reader: EventReader) -> AsyncIterator[Event]:
    async for lines in reader.lines():
        for line in lines.splitlines():
            yield msgspec.json.decode(line, type=Event)


async def some(count: int, reader: EventReader) -> list[Event]:
    async with asyncio.timeout(PATIENCE_S):
        stream = events(reader)
        return [await anext(stream) for _ in range(count)]


async def test_a_sequence_submitted_again_is_not_run_again(a_sequence: Callable) -> None:
    desk = Desk()
    batch = SubmitBatch("b", [a_sequence("s")])
    assert desk.submit(batch, batch) == []
    desk.step(finished=[Finish("s", "length")])
    assert desk.submit(SubmitBatch("b", [a_sequence("s"), a_sequence("t")])) == []
    assert desk.started == ["s", "t"]


async def test_cancel_and_revise_are_passed_on_in_order(a_sequence: Callable) -> None:
    desk = Desk()
    desk.submit(SubmitBatch("b", [a_sequence("s")]), Revise({"s": 4}), Cancel(["s"]))
    assert desk.orders[1:] == [Revise({"s": 4}), Stop(["s"])]


async def test_a_submission_for_another_epoch_is_a_conflict(a_sequence: Callable) -> None:
    desk = Desk()
    with pytest.raises(ConflictingCall, match="the epoch is e, the submission is for other"):
        desk.submit(SubmitBatch("b", [a_sequence("s")]), epoch="other")
    assert desk.orders == []


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
async def test_what_can_never_run_is_refused_with_the_reason(
    fields: dict[str, object], reason: str, a_sequence: Callable
) -> None:
    desk = Desk()
    [refused] = desk.submit(SubmitBatch("b", [a_sequence("bad", **fields), a_sequence("good")]))
    assert reason in refused
    assert desk.started == ["good"]


async def test_a_new_session_drops_what_the_earlier_one_asked_for(a_sequence: Callable) -> None:
    desk = Desk()
    desk.submit(SubmitBatch("b", [a_sequence("s")]))
    desk.submit(SubmitBatch("b", [a_sequence("s")]), session="b")
    assert [type(order) for order in desk.orders] == [Start, Forget, Start]
    with pytest.raises(ConflictingCall, match="session a was replaced by b"):
        desk.submit()


async def test_a_new_session_ends_the_streams_of_the_earlier_one() -> None:
    desk = Desk()
    stream = events(desk.sessions.open("a", 0))
    assert await anext(stream) == Hello("e", 0)
    desk.sessions.open("b", 0)
    assert [event async for event in stream] == []


async def test_a_new_session_reads_no_event_of_the_earlier_one() -> None:
    desk = Desk()
    desk.sessions.open("a", 0)
    for _ in range(9):
        desk.step()
    reader = desk.sessions.open("b", 0)
    desk.step(running=3)
    hello, step = await some(2, reader)
    assert hello == Hello("e", 10, lost=False)
    assert isinstance(step, Step)
    assert (step.number, step.running) == (10, 3)


async def test_sequences_are_cancelled_when_nobody_reads_for_long(a_sequence: Callable) -> None:
    desk = Desk(gone_s=0.02)
    reader = desk.sessions.open("a", 0)
    desk.submit(SubmitBatch("b", [a_sequence("s")]))
    await asyncio.sleep(0.05)
    assert [type(order) for order in desk.orders] == [Start]
    desk.given.clear()
    desk.sessions.closed(reader)
    await asyncio.wait_for(desk.given.wait(), 10)
    assert desk.orders[1:] == [Stop(None, "the events connection was gone for 0.02 s")]


async def test_what_is_submitted_after_a_cancellation_is_cancelled_too(
    a_sequence: Callable,
) -> None:
    desk = Desk(gone_s=0.02)
    for name in "st":
        desk.submit(SubmitBatch("b", [a_sequence(name)]))
        desk.given.clear()
        await asyncio.wait_for(desk.given.wait(), 10)
    assert [type(order) for order in desk.orders] == [Start, Stop, Start, Stop]


async def test_a_stream_opened_in_time_keeps_the_sequences() -> None:
    desk = Desk(gone_s=0.02)
    desk.sessions.closed(desk.sessions.open("a", 0))
    desk.sessions.open("a", 0)
    await asyncio.sleep(0.05)
    assert desk.orders == []


async def test_a_stream_resumes_after_the_event_asked_for() -> None:
    desk = Desk()
    desk.sessions.open("a", 0)
    for _ in range(4):
        desk.step()
    hello, *rest = await some(3, desk.sessions.open("a", 2))
    assert hello == Hello("e", 4, lost=False)
    assert [step.number for step in rest] == [3, 4]


async def test_a_stream_tells_that_events_are_lost() -> None:
    desk = Desk(kept=4)
    desk.sessions.open("a", 0)
    for _ in range(6):
        desk.step()
    hello, *rest = await some(5, desk.sessions.open("a", 1))
    assert hello == Hello("e", 6, lost=True)
    assert [step.number for step in rest] == [3, 4, 5, 6]


async def test_a_reader_that_fell_behind_the_ring_is_ended() -> None:
    desk = Desk(kept=4)
    stream = events(desk.sessions.open("a", 0))
    await anext(stream)
    for _ in range(5):
        desk.step()
    assert [event async for event in stream] == []


async def test_a_number_from_another_epoch_reads_what_comes_next() -> None:
    desk = Desk()
    reader = desk.sessions.open("a", 500)
    desk.step()
    assert [event.number for event in await some(2, reader)] == [1, 1]


async def test_a_quiet_stream_beats() -> None:
    reader = EventReader(EventLog(), "e", 0, heartbeat_s=0.01)
    assert await some(3, reader) == [Hello("e", 0), Heartbeat(0), Heartbeat(0)]


def test_unfinished_sequences_are_never_forgotten_and_old_finished_ones_are() -> None:
    known = KnownSequences(remembered=2)
    for name in "abcd":
        known.add(name)
    known.finish("abc")
    assert [name for name in "abcd" if name in known] == ["b", "c", "d"]
