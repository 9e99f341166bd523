"""A lock-step batch that ran out of memory is queued again in halves, which go on."""

import asyncio
from collections.abc import Callable

import pytest

from engine.protocol import Finish, KvState
from gateway.errors import ContextLengthExceeded
from gateway.generation.request import Stops
from gateway.generation.request_state import RequestState
from gateway.scheduling.policy import POLICY_NAMES, Options, PolicyName, build_policy
from tests.unit.generation.conftest import SchedulerScene

LOCKSTEP = [name for name in POLICY_NAMES if build_policy(name, Options()).lockstep]
OPTIONS = Options(fixed_batch=4)


async def running_batch(
    scene: SchedulerScene, *requests: RequestState, policy: PolicyName = "magnus"
) -> list[RequestState]:
    """A batch of four, or of these, each of which has a token."""
    scene.scheduler.use_policy(policy, OPTIONS)
    scene.connect()
    batch = list(requests) or [scene.request() for _ in range(4)]
    await scene.enqueue(*batch)
    assert [len(sent) for sent in scene.engine.submitted] == [len(batch)]
    scene.step({request.sequence_id: [7] for request in batch})
    return batch


async def split(scene: SchedulerScene, batch: list[RequestState]) -> None:
    """The engine returns the batch; a decision follows."""
    scene.step(returned=[request.sequence_id for request in batch])
    await asyncio.sleep(0)


async def run_until(scene: SchedulerScene, condition: Callable[[], bool]) -> None:
    """Every running sequence gets a token and ends, until a condition holds."""
    for _ in range(20):
        if not condition():
            running = [*scene.table.running]
            scene.step({name: [8] for name in running}, [Finish(name, "stop") for name in running])
            await asyncio.sleep(0)
    assert condition()


async def run_to_end(scene: SchedulerScene) -> None:
    """Run until nothing waits or runs."""
    await run_until(scene, lambda: not (scene.waiting or scene.running))
    assert (scene.waiting, scene.running) == (0, 0)
    scene.scheduler.policy.check()
    scene.scheduler.load.check_counts()
    assert scene.scheduler.policy.admission.empty


def value(scene: SchedulerScene, series: str) -> float | None:
    return scene.scheduler.metrics.registry.get_sample_value(series)


@pytest.mark.parametrize("policy", LOCKSTEP)
async def test_returned_batch_goes_on_in_halves_from_its_tokens(
    scene: SchedulerScene, policy: PolicyName
) -> None:
    batch = await running_batch(scene, policy=policy)
    before = [request.sequence_id for request in batch]
    await split(scene, batch)
    assert (scene.waiting, scene.running) == (2, 2)
    half = scene.engine.submitted[-1]
    assert [sequence.generated for sequence in half] == [[7], [7]]
    assert not {sequence.id for sequence in half} & set(before)
    await run_to_end(scene)
    assert [len(sent) for sent in scene.engine.submitted] == [4, 2, 2]
    assert [request.tokens for request in batch] == [[7, 8]] * 4
    assert {request.finish_reason for request in batch} == {"stop"}


async def test_halves_are_split_until_each_is_one_request(scene: SchedulerScene) -> None:
    batch = await running_batch(scene)
    await split(scene, batch)
    while scene.waiting or scene.running:
        running = list(scene.table.running.values())
        if len(running) > 1:
            await split(scene, running)
            continue
        scene.step(finished=[Finish(running[0].sequence_id, "stop")])
        await asyncio.sleep(0)
    assert sorted(len(sent) for sent in scene.engine.submitted) == [1, 1, 1, 1, 2, 2, 4]
    assert {request.finish_reason for request in batch} == {"stop"}


async def test_rest_of_one_is_queued_again_alone(scene: SchedulerScene) -> None:
    batch = await running_batch(scene)
    *ended, last = batch
    scene.step(
        finished=[Finish(request.sequence_id, "stop") for request in ended],
        returned=[last.sequence_id],
    )
    await asyncio.sleep(0)
    assert [sequence.id for sequence in scene.engine.submitted[-1]] == [last.sequence_id]
    await run_to_end(scene)


async def test_no_request_joins_a_half(scene: SchedulerScene) -> None:
    batch = await running_batch(scene)
    await split(scene, batch)
    await scene.enqueue(scene.request())
    await run_to_end(scene)
    assert sorted(len(sent) for sent in scene.engine.submitted) == [1, 2, 2, 4]


async def test_cancelled_request_of_a_waiting_half_never_runs_again(
    scene: SchedulerScene,
) -> None:
    batch = await running_batch(scene)
    await split(scene, batch)
    gone, stays = list(scene.table.waiting.values())
    scene.scheduler.cancel(gone)
    assert (gone.finish_reason, gone.tokens, scene.engine.cancelled) == ("cancelled", [7], [])
    await run_to_end(scene)
    assert [sequence.id for sequence in scene.engine.submitted[-1]] == [stays.sequence_id]
    assert gone.sequence_id not in scene.names


async def test_whole_waiting_half_may_be_cancelled(scene: SchedulerScene) -> None:
    await split(scene, await running_batch(scene))
    for request in list(scene.table.waiting.values()):
        scene.scheduler.cancel(request)
    await run_to_end(scene)
    assert len(scene.engine.submitted) == 2


async def test_request_cancelled_while_its_batch_was_returned_stays_ended(
    scene: SchedulerScene,
) -> None:
    batch = await running_batch(scene)
    returned = [request.sequence_id for request in batch]
    scene.scheduler.cancel(batch[0])
    scene.step(returned=returned)
    await asyncio.sleep(0)
    await run_to_end(scene)
    assert (batch[0].finish_reason, batch[0].tokens) == ("cancelled", [7])
    assert sorted(len(sent) for sent in scene.engine.submitted) == [1, 2, 4]


async def test_returned_batch_whose_clients_all_left_is_nothing(scene: SchedulerScene) -> None:
    batch = await running_batch(scene)
    returned = [request.sequence_id for request in batch]
    for request in batch:
        scene.scheduler.cancel(request)
    scene.step(returned=returned)
    await asyncio.sleep(0)
    assert (scene.waiting, scene.running, len(scene.engine.submitted)) == (0, 0, 1)
    assert value(scene, "lmaas_batch_splits_total") == 0


async def test_answer_that_ends_at_a_stop_string_is_not_queued_again(
    scene: SchedulerScene,
) -> None:
    stopping, other = scene.request(stops=Stops(strings=(" golden",))), scene.request()
    await running_batch(scene, stopping, other)
    golden = scene.encode("brave golden castle")
    scene.step({stopping.sequence_id: golden}, returned=[stopping.sequence_id, other.sequence_id])
    await asyncio.sleep(0)
    assert stopping.finish_reason == "stop"
    assert [sequence.id for sequence in scene.engine.submitted[-1]] == [other.sequence_id]


async def test_engine_lost_while_a_half_waits(scene: SchedulerScene) -> None:
    batch = await running_batch(scene)
    await split(scene, batch)
    running, waiting = list(scene.table.running.values()), list(scene.table.waiting.values())
    scene.step({request.sequence_id: [9] for request in running})
    scene.scheduler.events[0].engine_lost()
    scene.connect()
    assert [sequence.generated for sequence in scene.engine.submitted[-1]] == [[7, 9], [7, 9]]
    assert list(scene.table.waiting.values()) == waiting
    await run_to_end(scene)
    assert [request.tokens for request in waiting] == [[7, 8]] * 2


async def test_engine_lost_before_a_return_was_read_gets_the_whole_batch_again(
    scene: SchedulerScene,
) -> None:
    batch = await running_batch(scene)
    lost = [request.sequence_id for request in batch]
    scene.scheduler.events[0].engine_lost()
    scene.connect()
    assert len(scene.engine.submitted[-1]) == 4
    scene.step(returned=lost)  # of the lost engine: its ids are unknown
    assert scene.running == 4
    await split(scene, batch)
    assert (scene.waiting, scene.running) == (2, 2)
    await run_to_end(scene)


async def test_batch_returned_after_a_change_of_policy_goes_on_at_once(
    scene: SchedulerScene,
) -> None:
    batch = await running_batch(scene)
    scene.scheduler.use_policy("lmaas")
    await split(scene, batch)
    assert (scene.waiting, scene.running) == (0, 4)
    assert [len(sent) for sent in scene.engine.submitted] == [4, 2, 2]
    assert scene.engine.commands[-2:] == ["lockstep", "continuous"]
    await run_to_end(scene)


@pytest.mark.parametrize("policy", ["lmaas", "fcfs", "fixed", "magnus-fcfs"])
async def test_waiting_halves_move_to_another_policy_and_are_never_shed(
    scene: SchedulerScene, policy: PolicyName
) -> None:
    scene.now_s = 0.0
    impatient = [
        scene.request(arrived_s=0.0, max_queue_s=5.0, deadline_s=8.0, quantiles=(1.0,) * 6)
        for _ in range(4)
    ]
    batch = await running_batch(scene, *impatient)
    await split(scene, batch)
    scene.scheduler.use_policy(policy)
    scene.now_s = 60.0
    await run_to_end(scene)
    assert [request.finish_reason for request in batch] == ["stop"] * 4


@pytest.mark.parametrize("policy", LOCKSTEP)
async def test_halves_are_exempt_from_the_maximum_queue_time(
    scene: SchedulerScene, policy: PolicyName
) -> None:
    scene.now_s = 0.0
    impatient = [scene.request(arrived_s=0.0, max_queue_s=5.0) for _ in range(4)]
    batch = await running_batch(scene, *impatient, policy=policy)
    await split(scene, batch)
    scene.now_s = 60.0
    await run_to_end(scene)
    assert [request.finish_reason for request in batch] == ["stop"] * 4


async def test_running_sequences_of_an_earlier_policy_are_halved_like_any_batch(
    scene: SchedulerScene,
) -> None:
    scene.connect()
    requests = [scene.request() for _ in range(5)]
    await scene.enqueue(*requests)
    scene.step({request.sequence_id: [7] for request in requests})
    scene.scheduler.use_policy("magnus")  # the engine makes one batch of what runs
    await split(scene, requests)
    assert [len(sent) for sent in scene.engine.submitted] == [5, 2]
    await run_to_end(scene)


async def test_drained_engine_finishes_a_returned_batch(scene: SchedulerScene) -> None:
    batch = await running_batch(scene)
    scene.scheduler.drain_engine()
    await scene.enqueue(new := scene.request())
    await split(scene, batch)
    assert [len(sent) for sent in scene.engine.submitted] == [4, 2, 2]
    assert list(scene.table.waiting.values()) == [new]
    scene.step(finished=[Finish(name, "stop") for name in scene.table.running])
    scene.scheduler.resume_engine()
    await asyncio.sleep(0)
    await run_to_end(scene)


async def test_drained_engine_finishes_a_half_that_waits(scene: SchedulerScene) -> None:
    batch = await running_batch(scene)
    await split(scene, batch)
    scene.scheduler.drain_engine()
    assert [len(sent) for sent in scene.engine.submitted] == [4, 2, 2]
    await scene.enqueue(new := scene.request())
    await run_until(scene, lambda: scene.running == 0)
    assert [request.tokens for request in batch] == [[7, 8]] * 4
    assert list(scene.table.waiting.values()) == [new]
    scene.scheduler.resume_engine()
    await asyncio.sleep(0)
    await run_to_end(scene)


async def test_paused_engine_gets_the_halves_when_it_is_resumed(scene: SchedulerScene) -> None:
    batch = await running_batch(scene)
    scene.scheduler.pause_engine()
    await split(scene, batch)
    assert (scene.waiting, scene.running) == (4, 0)
    scene.scheduler.resume_engine()
    await asyncio.sleep(0)
    assert (scene.waiting, scene.running) == (2, 2)
    await run_to_end(scene)


async def test_waiting_half_follows_a_memory_that_shrank(scene: SchedulerScene) -> None:
    free, long = (scene.request(max_tokens=500) for _ in range(2))
    bound = scene.request(max_tokens=200, wanted=200)
    batch = await running_batch(scene, free, long, bound)
    scene.step({long.sequence_id: [7] * 130})
    scene.scheduler.pause_engine()
    await split(scene, batch)
    scene.step(kv=KvState(pages=8, free=8, page_tokens=16))  # 128 tokens
    assert (long.finish_reason, long.error) == ("length", None)
    assert isinstance(bound.error, ContextLengthExceeded)
    assert (free.max_tokens, scene.waiting) == (125, 1)
    scene.scheduler.resume_engine()
    await asyncio.sleep(0)
    [again] = scene.engine.submitted[-1]
    assert (again.generated, again.max_tokens) == ([7], 125)


async def test_splits_are_counted_and_a_request_waits_for_its_start_once(
    scene: SchedulerScene,
) -> None:
    batch = await running_batch(scene)
    await split(scene, batch)
    await run_to_end(scene)
    assert value(scene, "lmaas_batch_splits_total") == 1
    assert value(scene, "lmaas_preemptions_total") == 4
    assert value(scene, "lmaas_wait_seconds_count") == 4
    assert value(scene, "lmaas_batch_size_count") == 3
    assert value(scene, "lmaas_batch_size_sum") == 8
    assert {record.preemptions for record in scene.outcomes.records} == {1}


async def test_operator_sees_that_a_half_waits_to_go_on(scene: SchedulerScene) -> None:
    scene.now_s = 0.0
    requests = [scene.request(arrived_s=0.0, length=10.0) for _ in range(4)]
    batch = await running_batch(scene, *requests)
    first_batch = batch[0].trace.batch
    await split(scene, batch)
    waiting = next(request for request in batch if request.queued_again)
    running = next(request for request in batch if not request.queued_again)
    explained = scene.scheduler._explained(waiting)
    assert (explained.state, explained.preemptions, explained.batch) == ("waiting", 1, first_batch)
    assert explained.why.endswith("memory had run out; it waits to go on where it stopped.")
    assert scene.scheduler._explained(running).state == "running"
    assert (running.trace.batch != first_batch, running.trace.batch_size) == (True, 2)
    shown = {each.id: each for each in scene.scheduler.read_queue(limit=9).requests}
    assert (shown[waiting.id].state, shown[waiting.id].generated_tokens) == ("waiting", 1)
    assert shown[waiting.id].remaining_tokens == pytest.approx(9.0)
    assert shown[running.id].state == "running"


async def test_serving_time_of_a_half_is_learned_from_what_it_added(
    scene: SchedulerScene,
) -> None:
    scene.now_s = 0.0
    batch = await running_batch(scene, *(scene.request(arrived_s=0.0) for _ in range(2)))
    scene.step({request.sequence_id: [7] * 9 for request in batch})
    scene.now_s = 5.0
    learned: list[tuple[float, ...]] = []
    scene.scheduler.policy.observe = lambda *seen: learned.append(seen)  # type: ignore[method-assign]
    await split(scene, batch)
    assert not learned
    [running] = scene.table.running.values()
    scene.now_s = 7.0
    scene.step({running.sequence_id: [8] * 6}, [Finish(running.sequence_id, "stop")])
    assert learned == [(1, 3 + 10, 6, 2.0)]
