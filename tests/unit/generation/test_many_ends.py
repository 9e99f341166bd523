"""Many sequences that end in one step of the engine are settled in several turns of the loop."""

import asyncio

from engine.protocol import Finish
from gateway.generation.engine_events import MAX_ENDS_PER_TURN
from gateway.generation.request_state import RequestState
from tests.unit.generation.conftest import SchedulerScene

ENDS = 2 * MAX_ENDS_PER_TURN + 1


async def running(scene: SchedulerScene) -> list[RequestState]:
    scene.connect()
    requests = [scene.request() for _ in range(ENDS)]
    await scene.enqueue(*requests)
    while any(request.dispatched_s is None for request in requests):
        await asyncio.sleep(0)
    return requests


def end(scene: SchedulerScene, requests: list[RequestState]) -> None:
    scene.step(finished=[Finish(request.sequence_id, "stop") for request in requests])


async def test_ends_of_a_step_are_settled_oldest_first_a_few_in_a_turn(
    scene: SchedulerScene,
) -> None:
    requests = await running(scene)
    end(scene, requests)
    settled: list[int] = []
    while not settled or settled[-1] < ENDS:
        settled.append(sum(request.done for request in requests))
        assert [request.done for request in requests] == sorted(
            (request.done for request in requests), reverse=True
        )
        await asyncio.sleep(0)
    assert settled == [MAX_ENDS_PER_TURN, 2 * MAX_ENDS_PER_TURN, ENDS]


async def test_ends_of_later_steps_wait_for_those_of_earlier_ones(scene: SchedulerScene) -> None:
    requests = await running(scene)
    end(scene, requests[:-1])
    end(scene, requests[-1:])
    assert not requests[-1].done
    while not requests[-1].done:
        await asyncio.sleep(0)
    assert all(request.done for request in requests)


async def test_what_has_ended_does_not_run_again_on_the_next_engine(scene: SchedulerScene) -> None:
    requests = await running(scene)
    end(scene, requests)
    scene.scheduler.events[0].engine_lost()
    assert {request.finish_reason for request in requests} == {"stop"}
    submitted = len(scene.engine.submitted)
    scene.connect()
    await asyncio.sleep(0)
    assert len(scene.engine.submitted) == submitted


async def test_client_that_leaves_between_its_end_and_its_turn_is_settled_once(
    scene: SchedulerScene,
) -> None:
    requests = await running(scene)
    end(scene, requests)
    scene.scheduler.cancel(requests[-1])
    while scene.scheduler.table.running:
        await asyncio.sleep(0)
    assert requests[-1].finish_reason == "cancelled"
    assert len(scene.ended) == ENDS
