"""The live queue as operators see it."""

import asyncio
import time
from uuid import UUID

import pytest

from engine.protocol import Finish
from gateway.errors import NotFound, RequestCancelled
from tests.unit.generation.conftest import SchedulerScene


async def test_queued_requests_are_in_start_order(scene: SchedulerScene) -> None:
    requests = [scene.request(length=length) for length in (90.0, 5.0, 40.0, 10.0)]
    await scene.enqueue(*requests)
    queue = scene.scheduler.read_queue(limit=10)
    ranked = [r.id for batch in scene.scheduler.policy.waiting(0.0) for r in batch.requests]
    assert {each.id for each in queue.requests} == {request.id for request in requests}
    assert [each.position for each in queue.requests] == [1, 2, 3, 4]
    assert len(ranked) == 4
    assert (queue.totals.waiting, queue.totals.running) == (4, 0)
    assert queue.totals.waiting_tokens == pytest.approx(145.0)
    assert not queue.more


async def test_expected_times_are_null_without_an_engine(scene: SchedulerScene) -> None:
    await scene.enqueue(scene.request())
    (waiting,) = scene.scheduler.read_queue(limit=1).requests
    assert (waiting.expected_start_s, waiting.expected_finish_s) == (None, None)


async def test_running_requests_come_first_with_their_remaining_tokens(
    scene: SchedulerScene,
) -> None:
    scene.connect()
    requests = [scene.request(length=400.0, max_tokens=400) for _ in range(6)]
    await scene.enqueue(*requests)
    running = [request for request in requests if request.trace.batch]
    scene.step({request.sequence_id: [1, 2] for request in running})
    queue = scene.scheduler.read_queue(limit=10)
    states = [each.state for each in queue.requests]
    assert states == ["running"] * len(running) + ["waiting"] * (6 - len(running))
    assert 0 < len(running) < 6
    first, last = queue.requests[0], queue.requests[-1]
    assert (first.generated_tokens, first.position) == (2, None)
    assert first.remaining_tokens == pytest.approx(398.0)
    assert first.expected_finish_s is not None
    assert last.expected_start_s is not None
    assert last.expected_finish_s is not None
    assert last.expected_finish_s > last.expected_start_s >= 0.0
    assert queue.requests[len(running)].waited_s > 0


async def test_pages_hold_every_request_once(scene: SchedulerScene) -> None:
    requests = [scene.request(tenant=1 + number % 2) for number in range(7)]
    await scene.enqueue(*requests)
    scene.now_s = 1.0
    seen = []
    more, offset = True, 0
    while more:
        queue = scene.scheduler.read_queue(limit=3, offset=offset)
        seen += [each.id for each in queue.requests]
        more, offset = queue.more, offset + 3
    assert sorted(seen) == sorted(request.id for request in requests)


async def test_one_tenants_requests_keep_their_position_among_all(scene: SchedulerScene) -> None:
    requests = [scene.request(tenant=1 + number % 2) for number in range(6)]
    await scene.enqueue(*requests)
    tenant = UUID(int=2)
    scene.now_s = 1.0
    queue = scene.scheduler.read_queue(limit=10, tenant=tenant)
    everything = scene.scheduler.read_queue(limit=10)
    assert [each.tenant_id for each in queue.requests] == [tenant] * 3
    assert queue.totals == everything.totals
    assert queue.requests == [each for each in everything.requests if each.tenant_id == tenant]


async def test_deadlines_count_from_now(scene: SchedulerScene) -> None:
    patient = scene.request(deadline_s=60.0, max_queue_s=20.0, service_tier="flex")
    patient.arrived_s = time.monotonic()
    await scene.enqueue(patient)
    scene.now_s = patient.arrived_s + 5
    (shown,) = scene.scheduler.read_queue(limit=1).requests
    assert (shown.deadline_s, shown.start_by_s, shown.waited_s) == pytest.approx((55.0, 15.0, 5.0))
    assert (shown.service_tier, shown.urgency) == ("flex", 0.25)


async def test_cancelled_request_leaves_the_queue_and_its_client_gets_an_error(
    scene: SchedulerScene,
) -> None:
    request, other = scene.request(), scene.request()
    await scene.enqueue(request, other)
    assert scene.scheduler.cancel_request(request.id, by="olga").id == request.id
    assert isinstance(request.error, RequestCancelled)
    assert [state.id for state in scene.table.waiting.values()] == [other.id]
    with pytest.raises(NotFound, match="there is no request"):
        scene.scheduler.cancel_request(request.id, by="olga")


async def test_all_choices_of_a_request_are_cancelled_together(scene: SchedulerScene) -> None:
    scene.connect()
    grew = asyncio.Event()
    first, second = (scene.request(choice=choice, grew=grew) for choice in range(2))
    second.request = first.request
    await scene.enqueue(first, second)
    scene.scheduler.cancel_request(second.id, by="olga")
    assert (first.done, second.done) == (True, True)
    assert sorted(scene.engine.cancelled) == sorted([first.sequence_id, second.sequence_id])


async def test_explanation_follows_a_request_from_queue_to_end(scene: SchedulerScene) -> None:
    request = scene.request(arrived_s=0.0)
    await scene.enqueue(request)
    scene.now_s = 2.0
    waiting = scene.scheduler._explained(request)
    assert (waiting.state, waiting.waited_s, waiting.batch) == ("waiting", 2.0, None)
    assert waiting.why.startswith("It has waited 2.00 s")
    scene.connect()
    await asyncio.sleep(0)
    assert request.dispatched_s is not None
    scene.now_s = request.dispatched_s + 1.0
    running = scene.scheduler._explained(request)
    assert (running.state, running.queue_ahead) == ("running", 0)
    assert running.waited_s == request.dispatched_s
    assert running.kv_free_pages == 64
    scene.step({request.sequence_id: [7]}, [Finish(request.sequence_id, "stop")])
    scene.now_s = 1e9
    ended = scene.scheduler._explained(request)
    assert (ended.state, ended.finish_reason, ended.generation_tokens) == ("ended", "stop", 1)
    assert ended.waited_s == running.waited_s
