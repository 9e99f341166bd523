"""Host memory chosen by admission: where it is said, and what becomes of it."""

from uuid import UUID

import pytest

from engine.protocol import Finish, HostCost, KvState, StepWork
from gateway.generation.request_state import RequestState
from tests.unit.generation.conftest import SchedulerScene

KV = KvState(pages=32, free=32, page_tokens=16, offload_pages=64, offload_free=64)
CHEAP = {"host-exact": HostCost(0.0, 1e-4, 1e-7), "host-speculative": HostCost(0.0, 1e-4, 1e-7)}
LONG = {"prompt": [1] * 300, "length": 150.0, "max_tokens": 150}
SHORT = {"prompt": [1] * 250, "length": 8.0, "max_tokens": 20}


def connect(scene: SchedulerScene, **fields: object) -> None:
    given = {"offload_context_tokens": 1024, "host_costs": CHEAP, "step_tokens": 512}
    scene.connect(KV, **(given | fields))


def measure(scene: SchedulerScene) -> None:
    """Steps of 10 ms and 1 ms a row, enough to know that."""
    for number in range(320):
        rows = 1 + number % 8
        scene.step(kv=KV, work=StepWork(0, 0.0, rows, 0), took_s=10e-3 + 1e-3 * rows)


@pytest.fixture
async def ready(scene: SchedulerScene) -> SchedulerScene:
    connect(scene)
    measure(scene)
    return scene


async def blocked(scene: SchedulerScene, **fields: object) -> tuple[RequestState, RequestState]:
    """A request on the device, and one behind it for which it leaves no room."""
    first = scene.request(**LONG)
    await scene.enqueue(first)
    second = scene.request(**{**SHORT, "memory": "host-exact", **fields})
    await scene.enqueue(second)
    return first, second


def starts(scene: SchedulerScene, reason: str) -> float | None:
    registry = scene.scheduler.metrics.registry
    return registry.get_sample_value("lmaas_kv_offload_starts_total", {"reason": reason})


@pytest.mark.parametrize("memory", ["host-exact", "host-speculative"])
async def test_it_runs_where_it_wants_and_says_why(ready: SchedulerScene, memory: str) -> None:
    _, second = await blocked(ready, memory=memory)
    [sequence] = ready.engine.submitted[-1]
    assert (sequence.id, sequence.memory) == (second.sequence_id, memory)
    assert (second.memory, second.host_reason) == (memory, "would_preempt")
    assert starts(ready, "would_preempt") == 1
    explained = await ready.scheduler.explain(second.id, None)  # type: ignore[arg-type]
    assert (explained.memory, explained.memory_reason) == (memory, "would_preempt")
    assert "in host memory, as the device had no room" in explained.why
    entry = ready.scheduler.read_queue(limit=9).requests[1]
    assert (entry.id, entry.memory, entry.memory_reason) == (second.id, memory, "would_preempt")
    assert not ready.engine.preempted


async def test_what_did_not_opt_in_waits(ready: SchedulerScene) -> None:
    _, second = await blocked(ready, memory="device")
    assert (ready.waiting, second.memory) == (1, "device")
    assert not second.undecided


async def test_what_only_the_host_holds_says_so(ready: SchedulerScene) -> None:
    large = ready.request(prompt=[1] * 500, max_tokens=100, memory="host-exact")
    await ready.enqueue(large)
    assert large.host_reason == "does_not_fit"
    assert starts(ready, "does_not_fit") == 1


async def test_it_waits_while_the_cost_of_steps_is_unknown(scene: SchedulerScene) -> None:
    connect(scene)
    _, second = await blocked(scene)
    assert scene.waiting == 1
    assert second.undecided
    measure(scene)
    await scene.enqueue()
    assert second.on_host


async def test_it_waits_where_the_engine_does_not_serve_its_placement(
    scene: SchedulerScene,
) -> None:
    connect(scene, host_costs={"host-exact": CHEAP["host-exact"]})
    measure(scene)
    _, second = await blocked(scene, memory="host-speculative")
    assert (scene.waiting, second.memory) == (1, "device")


async def test_its_end_makes_room_for_the_next(ready: SchedulerScene) -> None:
    long = {**SHORT, "length": 600.0, "max_tokens": 260}
    _, second = await blocked(ready, **long)
    third = ready.request(**{**LONG, "prompt": [1] * 400, "max_tokens": 100}, memory="host-exact")
    fourth = ready.request(**{**LONG, "prompt": [1] * 400, "max_tokens": 100}, memory="host-exact")
    await ready.enqueue(third, fourth)
    assert (second.on_host, third.on_host, fourth.on_host) == (True, True, False)
    ready.step({second.sequence_id: [7]}, [Finish(second.sequence_id, "stop")], kv=KV)
    await ready.enqueue()
    assert fourth.on_host
    assert ready.ended == [second.id]
    ready.scheduler.policy.check()


async def test_its_placement_outlasts_the_engine(ready: SchedulerScene) -> None:
    first, second = await blocked(ready)
    ready.step({second.sequence_id: [7]}, kv=KV)
    ready.scheduler.events[0].engine_lost()
    connect(ready)
    again = {each.id: each for each in ready.engine.submitted[-1]}
    assert again[second.sequence_id].memory == "host-exact"
    assert again[second.sequence_id].generated == [7]
    assert again[first.sequence_id].memory == "device"
    assert second.host_reason == "would_preempt"


async def test_in_lock_step_it_goes_on_on_the_device(ready: SchedulerScene) -> None:
    _, second = await blocked(ready)
    before = second.sequence_id
    ready.step({before: [7]}, kv=KV)
    ready.scheduler.use_policy("magnus")
    assert before in ready.engine.cancelled
    [again] = ready.engine.submitted[-1]
    assert (again.id, again.memory, again.generated) == (second.sequence_id, "device", [7])
    assert not second.ended
    ready.step(finished=[Finish(second.sequence_id, "stop")], kv=KV)
    assert second.finish_reason == "stop"


async def test_cancelled_on_the_host_it_leaves_its_room(ready: SchedulerScene) -> None:
    _, second = await blocked(ready)
    ready.scheduler.cancel(second)
    assert not ready.scheduler._dispatcher._host_lane.held_pages
    ready.scheduler.policy.check()


async def test_an_ended_one_says_where_it_ran(ready: SchedulerScene) -> None:
    _, second = await blocked(ready)
    ready.step({second.sequence_id: [7]}, [Finish(second.sequence_id, "stop")], kv=KV)
    assert (second.memory, second.undecided) == ("host-exact", False)
    assert isinstance(second.id, UUID)


async def test_a_request_that_waits_for_host_memory_has_an_expected_start(
    ready: SchedulerScene,
) -> None:
    sizes = {"prompt": [1] * 500, "length": 200.0, "max_tokens": 200, "memory": "host-exact"}
    first, second = ready.request(**sizes), ready.request(**sizes)
    await ready.enqueue(first, second)
    assert (first.dispatched_s is None, second.dispatched_s is None) == (False, True)
    waits = ready.scheduler.waits
    waits.host.adopt(waits._begin_host().run())
    entry = ready.scheduler.read_queue(limit=9).requests[1]
    assert entry.id == second.id
    # All 200 steps of the first, of 0.1 ms for it and 10 ms at least for any step.
    assert entry.expected_start_s == pytest.approx(200 * 10.1e-3, rel=0.3)
    assert entry.expected_start_s is not None
    assert entry.expected_finish_s == pytest.approx(2 * entry.expected_start_s, rel=0.3)
    assert entry.expected_start_band_s is not None
    comment = ready.scheduler.comment(second)
    assert comment is not None
    assert comment.startswith("waiting, place 1")
    third = ready.request(**sizes)
    await ready.enqueue(third)
    start_s, finish_s = third.trace.expected_start_s, third.trace.expected_finish_s
    assert second.trace.expected_start_s is not None
    assert start_s is not None
    assert finish_s is not None
    assert second.trace.expected_start_s < start_s < finish_s
    ready.step(finished=[Finish(first.sequence_id, "stop")], kv=KV)
    await ready.enqueue()
    assert second.dispatched_s is not None
    assert waits.host.at_arrival.outcomes == 1
    ready.scheduler.cancel(third)
    assert waits.host.outlook(third.id.hex, 0.0) is None


async def test_what_runs_on_the_host_makes_the_steps_of_a_forecast_longer(
    ready: SchedulerScene,
) -> None:
    waits = ready.scheduler.waits
    before = waits._shared_step()
    await ready.enqueue(ready.request(prompt=[1] * 500, max_tokens=200, memory="host-exact"))
    added_s = ready.scheduler._dispatcher._host_lane.added_s(10e-3)
    assert added_s > 0
    assert waits._shared_step().step_s - before.step_s == pytest.approx(added_s)
