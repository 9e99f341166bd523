"""The queue follows the size of the engine's KV memory."""

import asyncio

import pytest

from engine.protocol import Finish, KvState
from gateway.errors import ContextLengthExceeded, GenerationFailed
from gateway.scheduling.policy import POLICY_NAMES, PolicyName
from tests.unit.generation.conftest import KV, SchedulerScene

SMALL = KvState(pages=8, free=8, page_tokens=16)  # 128 tokens


def too_small(sequence_id: str) -> Finish:
    return Finish(sequence_id, "error", "it does not fit the KV memory, which had to shrink")


@pytest.mark.parametrize("name", POLICY_NAMES)
async def test_policy_admits_to_the_pool_of_the_engine_that_is_there(
    scene: SchedulerScene, name: PolicyName
) -> None:
    running = []
    for kv in (KvState(pages=4, free=4, page_tokens=16), KV):
        scene.scheduler.use_policy(name)
        scene.connect(kv)
        requests = [scene.request(length=30.0, max_tokens=30) for _ in range(4)]
        await scene.enqueue(*requests)
        running.append(scene.running)
        for request in requests:
            scene.scheduler.cancel(request)
    assert running[0] < running[1] or (name.startswith("fixed") and running == [2, 2])


async def test_shrunken_memory_admits_fewer(scene: SchedulerScene) -> None:
    scene.connect()
    scene.step(kv=SMALL)
    await scene.enqueue(*(scene.request(length=100.0, max_tokens=100) for _ in range(4)))
    assert scene.running == 1


async def test_policy_changed_later_knows_the_memory(scene: SchedulerScene) -> None:
    scene.connect()
    scene.scheduler.use_policy("fcfs")
    await scene.enqueue(*(scene.request() for _ in range(4)))
    assert scene.running == 4


async def test_queued_request_beyond_shrunken_memory_ends_with_the_reason(
    scene: SchedulerScene,
) -> None:
    scene.connect()
    scene.scheduler.drain_engine()
    large = scene.request(max_tokens=200, wanted=200)
    small = scene.request(max_tokens=50, wanted=50)
    await scene.enqueue(large, small)
    scene.step(kv=SMALL)
    assert isinstance(large.error, ContextLengthExceeded)
    assert "memory has become smaller" in large.error.message
    assert "128 tokens" in large.error.message
    assert scene.waiting == len(scene.scheduler.policy) == 1
    scene.scheduler.policy.check()


async def test_queued_request_without_max_tokens_is_limited_to_shrunken_memory(
    scene: SchedulerScene,
) -> None:
    scene.connect()
    scene.scheduler.drain_engine()
    request = scene.request(max_tokens=500)
    await scene.enqueue(request)
    scene.step(kv=SMALL)
    scene.scheduler.resume_engine()
    await asyncio.sleep(0)
    assert scene.engine.submitted[-1][0].max_tokens == 125


async def test_running_request_ended_by_shrunken_memory_is_resumed_within_it(
    scene: SchedulerScene,
) -> None:
    scene.connect()
    request = scene.request(max_tokens=500)
    await scene.enqueue(request)
    scene.step({request.sequence_id: [7, 8]})
    scene.step(finished=[too_small(request.sequence_id)], kv=SMALL)
    again = scene.engine.submitted[-1][0]
    assert (again.generated, again.max_tokens) == ([7, 8], 125)
    assert not request.done


async def test_running_request_beyond_shrunken_memory_ends_with_the_reason(
    scene: SchedulerScene,
) -> None:
    scene.connect()
    request = scene.request(max_tokens=200, wanted=200)
    await scene.enqueue(request)
    scene.step(finished=[too_small(request.sequence_id)], kv=SMALL)
    assert isinstance(request.error, ContextLengthExceeded)
    assert scene.running == 0


async def test_answer_already_beyond_shrunken_memory_ends_with_length(
    scene: SchedulerScene,
) -> None:
    scene.connect()
    request = scene.request(max_tokens=500)
    await scene.enqueue(request)
    scene.step({request.sequence_id: [7] * 130})
    scene.step(finished=[too_small(request.sequence_id)], kv=SMALL)
    assert (request.finish_reason, request.error) == ("length", None)


async def test_failure_of_a_request_that_fits_is_final(scene: SchedulerScene) -> None:
    scene.connect()
    request = scene.request()
    await scene.enqueue(request)
    scene.step(finished=[Finish(request.sequence_id, "error", "bad numbers")])
    assert isinstance(request.error, GenerationFailed)
    assert "bad numbers" in request.error.message


async def test_next_engine_with_less_memory_resumes_only_what_fits(
    scene: SchedulerScene,
) -> None:
    scene.connect()
    free, bound = scene.request(max_tokens=500), scene.request(max_tokens=200, wanted=200)
    await scene.enqueue(free, bound)
    scene.scheduler.events[0].engine_lost()
    scene.connect(SMALL)
    assert [sequence.id for sequence in scene.engine.submitted[-1]] == [free.sequence_id]
    assert isinstance(bound.error, ContextLengthExceeded)
