"""An engine that is a server: what it takes changes, and what it cannot do is refused."""

import asyncio

import pytest
from msgspec import structs

from engine.protocol import Step
from gateway.errors import Conflict, InvalidRequest
from tests.unit.generation.conftest import KV, SchedulerScene


@pytest.fixture
async def server(scene: SchedulerScene) -> SchedulerScene:
    """A scene whose engine takes two sequences at once, and is no engine of ours."""
    scene.connect(max_running=2)
    info = scene.scheduler.engine.served
    refusals = dict.fromkeys(("pause", "lockstep", "pins"), "the model runs on a server")
    scene.scheduler.engine[0].info = structs.replace(info, refusals=refusals)
    return scene


async def test_requests_start_as_soon_as_the_server_takes_more(
    server: SchedulerScene,
) -> None:
    await server.enqueue(*(server.request() for _ in range(5)))
    assert server.running == 2
    server.scheduler.events[0].engine_stepped(Step(1, KV, {}, max_running=4))
    await asyncio.sleep(0)
    assert server.running == 4
    server.scheduler.events[0].engine_stepped(Step(2, KV, {}))
    assert server.scheduler.engine.served.max_running == 4


async def test_step_time_is_of_one_step_and_outlasts_ends_without_one(
    server: SchedulerScene,
) -> None:
    events, engines = server.scheduler.events[0], server.scheduler.engine
    assert engines.step_s is None
    events.engine_stepped(Step(1, KV, {}, steps=16, took_s=0.8))
    events.engine_stepped(Step(2, KV, {}))
    events.engine_stepped(Step(3, KV, {}, steps=0))
    assert engines.step_s == pytest.approx(0.05)
    events.engine_lost()
    server.connect()
    assert engines.step_s is None, "of another server"


async def test_admission_looks_as_many_steps_ahead_as_the_server_has_gone(
    server: SchedulerScene,
) -> None:
    events, loop = server.scheduler.events[0], server.loop
    before = loop.steps
    for number, steps in enumerate((1, 0, 16)):
        events.engine_stepped(Step(number, KV, {}, steps=steps))
    assert loop.steps - before == 17


async def test_server_is_neither_paused_nor_run_in_lock_step(server: SchedulerScene) -> None:
    with pytest.raises(Conflict, match="can be drained"):
        server.scheduler.pause_engine()
    with pytest.raises(InvalidRequest, match="the model runs on a server"):
        server.scheduler.use_policy("magnus")
    assert not server.scheduler.engine.paused
    assert server.scheduler.policy.name == "lmaas"
