"""The dispatcher with the real policy and an engine that only records its commands."""

import asyncio
from ast import literal_eval
from collections.abc import Callable

import pytest

from engine.protocol import Finish, Refused, Starting
from gateway.errors import EngineLost, GenerationFailed, ShuttingDown
from gateway.generation import engine_events
from gateway.generation.dispatcher import MAX_LOSSES
from gateway.generation.engine_events import STEPS_BETWEEN_REVISIONS
from gateway.generation.engines.session import MAX_STARTS
from gateway.generation.request import GenerationRequest, Stops
from gateway.generation.text.tokenizer import ChatTokenizer
from gateway.scheduling.control_loop import STEPS_UNTIL_ROOM
from gateway.scheduling.policy import POLICY_NAMES, PolicyName
from tests.unit.generation.conftest import OUTAGE_S, SchedulerScene


async def test_requests_wait_until_an_engine_connects(scene: SchedulerScene) -> None:
    await scene.enqueue(scene.request())
    assert scene.waiting == 1
    scene.connect()
    await asyncio.sleep(0)
    assert scene.running == 1


async def test_requests_that_arrive_together_are_one_batch(scene: SchedulerScene) -> None:
    scene.connect()
    await scene.enqueue(scene.request(), scene.request())
    assert [len(batch) for batch in scene.engine.submitted] == [2]


async def test_finished_request_has_its_tokens_and_reason(scene: SchedulerScene) -> None:
    scene.connect()
    request = scene.request()
    await scene.enqueue(request)
    scene.step({request.sequence_id: [7]})
    scene.step({request.sequence_id: [8]}, [Finish(request.sequence_id, "stop")])
    assert (request.tokens, request.finish_reason) == ([7, 8], "stop")
    assert scene.ended == [request.id]


async def test_request_that_does_not_fit_waits_for_a_finish(scene: SchedulerScene) -> None:
    scene.connect()
    requests = [scene.request(length=400.0, max_tokens=400) for _ in range(5)]
    await scene.enqueue(*requests)
    held = scene.running
    assert 1 <= held < 5
    first = next(r for r in requests if r.sequence_id in scene.names)
    scene.step(finished=[Finish(first.sequence_id, "stop")])
    await asyncio.sleep(0)
    assert len(scene.names) == held + 1


async def test_requests_of_a_lost_engine_are_resumed(scene: SchedulerScene) -> None:
    scene.connect()
    request = scene.request()
    await scene.enqueue(request)
    scene.step({request.sequence_id: [7, 8]})
    scene.scheduler.events[0].engine_lost()
    scene.connect()
    again = scene.engine.submitted[-1][0]
    assert (again.prompt, again.generated) == ([1, 2, 3], [7, 8])
    assert again.id == request.sequence_id != scene.names[0]
    assert not scene.ended


@pytest.mark.parametrize("lane", ["interactive", "batch"])
async def test_request_with_which_engines_are_lost_again_and_again_fails(
    scene: SchedulerScene, lane: str
) -> None:
    scene.connect()
    poison, other = scene.request(lane=lane), scene.request(max_tokens=99)
    await scene.enqueue(poison, other)
    for number in range(2 * MAX_LOSSES):
        assert not other.ended
        assert poison.ended == (number >= MAX_LOSSES)
        scene.step({other.sequence_id: [7]})
        scene.scheduler.events[0].engine_lost()
        scene.connect()
    assert isinstance(poison.error, GenerationFailed)
    assert len(scene.engine.submitted[-1]) == 1
    scene.step({other.sequence_id: [7]}, finished=[Finish(other.sequence_id, "stop")])
    assert other.error is None


async def test_requests_fail_after_a_long_outage(
    a_request: Callable[..., GenerationRequest], tokenizer: ChatTokenizer
) -> None:
    scene = SchedulerScene(a_request, tokenizer, outage_s=0.0)
    scene.connect()
    running, waiting = scene.request(), scene.request()
    await scene.enqueue(running)
    scene.scheduler.events[0].engine_lost()
    scene.scheduler.enqueue(waiting)
    await asyncio.wait_for(waiting.wait_for_end(), 10)
    assert isinstance(running.error, EngineLost)
    assert isinstance(waiting.error, EngineLost)
    assert [record.finish_reason for record in scene.outcomes.records] == ["error", "error"]


async def test_start_is_noted_with_its_batch_before_the_engine_has_it_and_a_line_is_not(
    scene: SchedulerScene,
) -> None:
    scene.connect()
    interactive, line = scene.request(), scene.request(lane="batch")
    await scene.enqueue(interactive, line)
    (noted,) = scene.outcomes.noted
    assert (noted.id, noted.batch_id) == (interactive.id, interactive.trace.batch)
    assert (noted.generation_tokens, noted.queued_s is None) == (0, False)


def starting(scene: SchedulerScene, epoch: str, at_s: float) -> None:
    """An engine gives a sign of life while it loads its model."""
    scene.now_s = at_s
    scene.scheduler.events[0].engine_starting(Starting(epoch, "reading weights"))


async def test_requests_wait_as_long_as_the_next_engine_shows_that_it_starts(
    scene: SchedulerScene,
) -> None:
    scene.connect()
    scene.now_s = 0.0
    scene.scheduler.events[0].engine_lost()
    engine = scene.scheduler.engine
    for at_s in range(0, 1000, 50):
        starting(scene, "next", at_s)
        assert engine.patience_s(at_s) == OUTAGE_S
        assert not engine.given_up(at_s + OUTAGE_S - 1)
    assert engine.phase == "reading weights"
    assert engine.given_up(950 + OUTAGE_S)
    scene.connect()
    assert (engine.phase, engine.given_up(2000)) == ("", False)


async def test_engine_that_starts_again_and_again_is_given_up(scene: SchedulerScene) -> None:
    scene.connect()
    scene.now_s = 0.0
    scene.scheduler.events[0].engine_lost()
    engine = scene.scheduler.engine
    for start in range(MAX_STARTS):
        starting(scene, f"start {start}", 40.0 * start)
        assert not engine.given_up(40.0 * start)
    starting(scene, "one more", 40.0 * MAX_STARTS)
    assert engine.patience_s(40.0 * MAX_STARTS) == OUTAGE_S - 40.0


async def test_requests_that_came_after_an_engine_was_given_up_fail_too(
    a_request: Callable[..., GenerationRequest],
    tokenizer: ChatTokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_events, "RECHECK_S", 0.01)
    scene = SchedulerScene(a_request, tokenizer, outage_s=0.0)
    scene.connect()
    scene.scheduler.events[0].engine_lost()
    for _ in range(2):
        waiting = scene.request()
        scene.scheduler.enqueue(waiting)
        await asyncio.wait_for(waiting.wait_for_end(), 10)
        assert isinstance(waiting.error, EngineLost)


async def test_failed_record_ends_no_other_answer(scene: SchedulerScene) -> None:
    scene.connect()
    first, second = scene.request(), scene.request()
    await scene.enqueue(first, second)
    scene.outcomes.record = lambda _: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    scene.step(finished=[Finish(first.sequence_id, "stop"), Finish(second.sequence_id, "stop")])
    assert (first.done, second.done) == (True, True)


async def test_events_of_a_lost_engine_are_ignored(
    scene: SchedulerScene,
) -> None:
    scene.connect()
    request = scene.request()
    await scene.enqueue(request)
    old = request.sequence_id
    scene.scheduler.events[0].engine_lost()
    scene.connect()
    scene.step({old: [99]}, [Finish(old, "stop")])
    assert (request.tokens, request.done) == ([], False)


async def test_request_cancelled_by_the_engine_is_resumed(scene: SchedulerScene) -> None:
    scene.connect()
    request = scene.request()
    await scene.enqueue(request)
    scene.step({request.sequence_id: [7]}, [Finish(request.sequence_id, "cancelled")])
    assert scene.engine.submitted[-1][0].generated == [7]


async def test_cancelled_request_is_cancelled_in_the_engine_and_recorded(
    scene: SchedulerScene,
) -> None:
    scene.connect()
    request = scene.request()
    await scene.enqueue(request)
    scene.scheduler.cancel(request)
    scene.scheduler.cancel(request)
    assert scene.engine.cancelled == [request.sequence_id]
    assert [r.finish_reason for r in scene.outcomes.records] == ["cancelled"]


async def test_cancelled_queued_request_never_runs(scene: SchedulerScene) -> None:
    request = scene.request()
    await scene.enqueue(request)
    scene.scheduler.cancel(request)
    scene.connect()
    await asyncio.sleep(0)
    assert not scene.names
    assert len(scene.scheduler.policy) == 0


async def test_answer_ends_at_its_stop_string_without_later_tokens(
    scene: SchedulerScene,
) -> None:
    scene.connect()
    request = scene.request(stops=Stops(strings=(" golden",)))
    await scene.enqueue(request)
    tokens = scene.encode("brave golden castle")
    scene.step({request.sequence_id: tokens})
    assert request.tokens == tokens[:2]
    assert (request.finish_reason, request.read(ended=True).text) == ("stop", "brave")
    assert scene.engine.cancelled == [request.sequence_id]
    scene.step({request.sequence_id: [9]}, [Finish(request.sequence_id, "cancelled")])
    assert request.tokens == tokens[:2]


async def test_refused_request_ends_with_the_reason(scene: SchedulerScene) -> None:
    scene.connect()
    request = scene.request()
    await scene.enqueue(request)
    scene.scheduler.events[0].engine_refused([Refused(request.sequence_id, "too long")])
    assert request.error is not None
    assert "too long" in request.error.message


async def test_stopping_ends_all_requests_with_an_error(scene: SchedulerScene) -> None:
    scene.connect()
    running = scene.request()
    await scene.enqueue(running)
    scene.scheduler.events[0].engine_lost()
    waiting = scene.request()
    await scene.enqueue(waiting)
    scene.scheduler.cancel_all(ShuttingDown("bye"))
    assert [r.finish_reason for r in (running, waiting)] == ["error", "error"]
    assert (scene.waiting, scene.running) == (0, 0)


async def test_policy_observes_serving_times(scene: SchedulerScene) -> None:
    scene.connect()
    request = scene.request()
    await scene.enqueue(request)
    learned: list[tuple[int, int, float]] = []
    scene.scheduler.policy.observe = lambda *seen: learned.append(seen[:3])  # type: ignore[method-assign]
    scene.step({request.sequence_id: [1, 2]}, [Finish(request.sequence_id, "stop")])
    assert learned == [(1, 3, 2)]


@pytest.mark.parametrize("name", POLICY_NAMES)
async def test_changed_policy_takes_over_all_that_waits(
    scene: SchedulerScene, name: PolicyName
) -> None:
    requests = [scene.request() for _ in range(5)]
    await scene.enqueue(*requests)
    before = scene.scheduler.policy
    scene.scheduler.use_policy(name)
    now = scene.scheduler.policy
    now.check()
    assert (now is before, len(now)) == (name == "lmaas", 5)
    assert now is before or len(before) == 0
    scene.connect()
    while scene.waiting or scene.running:
        await asyncio.sleep(0)
        running = [request for request in requests if request.sequence_id in scene.names]
        scene.step(finished=[Finish(request.sequence_id, "stop") for request in running])
    assert sorted(scene.names) == sorted(request.sequence_id for request in requests)
    assert sorted(scene.ended) == [r.id for r in requests]


async def test_change_to_the_same_policy_keeps_the_queue(scene: SchedulerScene) -> None:
    await scene.enqueue(scene.request())
    scene.scheduler.use_policy("lmaas")
    assert len(scene.scheduler.policy) == 1


async def test_fixed_batch_waits_for_requests_of_an_earlier_policy(scene: SchedulerScene) -> None:
    scene.connect()
    running, waiting = scene.request(), scene.request()
    await scene.enqueue(running)
    scene.scheduler.use_policy("fixed")
    await scene.enqueue(waiting)
    assert scene.names == [running.sequence_id]
    scene.step(finished=[Finish(running.sequence_id, "stop")])
    await asyncio.sleep(0)
    assert scene.names == [running.sequence_id, waiting.sequence_id]
    assert (running.trace.policy, waiting.trace.policy) == ("lmaas", "fixed")


async def test_cancelled_fixed_batch_makes_way(
    scene: SchedulerScene,
) -> None:
    scene.scheduler.use_policy("fixed")
    scene.connect()
    gone, next_one = scene.request(), scene.request()
    await scene.enqueue(gone)
    await scene.enqueue(next_one)
    sequence_id = gone.sequence_id
    scene.scheduler.cancel(gone)
    scene.step(finished=[Finish(sequence_id, "cancelled")])
    await asyncio.sleep(0)
    assert next_one.sequence_id in scene.names


async def test_expected_remaining_tokens_are_revised(scene: SchedulerScene) -> None:
    scene.connect()
    short, long, gone = scene.request(10.0), scene.request(90.0), scene.request(90.0)
    await scene.enqueue(short, long, gone)
    scene.step({gone.sequence_id: [7]}, [Finish(gone.sequence_id, "stop")])
    for _ in range(STEPS_BETWEEN_REVISIONS - 1):
        scene.step({short.sequence_id: [7], long.sequence_id: [7]})
    (commands,) = scene.engine.commands
    remaining = literal_eval(commands.removeprefix("revise "))
    assert remaining.keys() == {short.sequence_id, long.sequence_id}
    assert remaining[long.sequence_id] == 90 - len(long.tokens)
    assert 1 <= remaining[short.sequence_id] < 10


async def test_what_is_queued_is_counted_until_it_starts_or_leaves(scene: SchedulerScene) -> None:
    load = scene.scheduler.load
    waiting = [scene.request(length=10.0) for _ in range(3)]
    await scene.enqueue(*waiting)
    assert (load.total.requests, load.total.tokens) == (3, 3 * (3 + 10))
    scene.scheduler.cancel(waiting[0])
    assert load.total.requests == 2
    scene.connect()
    await asyncio.sleep(0)
    assert (load.total.requests, load.total.tokens) == (0, 0)
    load.check_counts()


async def test_a_newcomer_starts_in_place_of_a_sequence_of_a_flood(scene: SchedulerScene) -> None:
    scene.connect(max_running=4)
    flood = [scene.request(length=40.0) for _ in range(10)]
    await scene.enqueue(*flood)
    running = scene.names
    assert len(running) == 4
    for _ in range(STEPS_UNTIL_ROOM):
        scene.step({name: [7] for name in running})
    newcomer = scene.request(length=6.0, tenant=9)
    await scene.enqueue(newcomer)
    assert scene.engine.submitted[-1][0].id == newcomer.sequence_id
    assert scene.engine.preempt_first == dict.fromkeys(running, 1)
    [victim] = scene.engine.preempted
    assert victim in running
    state = scene.table.running[victim]
    scene.step({newcomer.sequence_id: [7]}, preempted=[victim])
    assert (state.suspended, state.preemptions) == (True, 1)
    scene.step({victim: [7]}, [Finish(newcomer.sequence_id, "stop")])
    assert not state.suspended


async def test_no_room_is_made_while_requests_start(scene: SchedulerScene) -> None:
    scene.connect(max_running=4)
    await scene.enqueue(*(scene.request(length=40.0) for _ in range(10)))
    scene.step({name: [7] for name in scene.names})
    await scene.enqueue(scene.request(length=6.0, tenant=9))
    assert not scene.engine.preempted
    for _ in range(2 * STEPS_UNTIL_ROOM):
        scene.step({name: [7] for name in scene.names[:4]})
        await asyncio.sleep(0)
    assert len(scene.engine.preempted) == 1
