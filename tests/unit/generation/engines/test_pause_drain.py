"""An operator pauses, drains and resumes the engine."""

import asyncio

from engine.protocol import Finish
from tests.unit.generation.conftest import SchedulerScene


async def test_paused_engine_gets_no_sequences_until_resumed(scene: SchedulerScene) -> None:
    scene.connect()
    scene.scheduler.pause_engine()
    await scene.enqueue(scene.request())
    assert (scene.engine.commands, scene.waiting) == (["pause"], 1)
    scene.scheduler.resume_engine()
    await asyncio.sleep(0)
    assert (scene.engine.commands, scene.running) == (["pause", "resume"], 1)


async def test_drained_engine_finishes_its_sequences_and_gets_no_new_ones(
    scene: SchedulerScene,
) -> None:
    scene.connect()
    running, waiting = scene.request(), scene.request()
    await scene.enqueue(running)
    scene.scheduler.drain_engine()
    await scene.enqueue(waiting)
    scene.step({running.sequence_id: [7]}, [Finish(running.sequence_id, "stop")])
    await asyncio.sleep(0)
    assert (running.finish_reason, scene.running) == ("stop", 0)
    scene.scheduler.resume_engine()
    await asyncio.sleep(0)
    assert scene.names == [running.sequence_id, waiting.sequence_id]


async def test_requests_of_an_engine_lost_while_draining_are_resumed(
    scene: SchedulerScene,
) -> None:
    scene.connect()
    request = scene.request()
    await scene.enqueue(request)
    scene.step({request.sequence_id: [7]})
    scene.scheduler.drain_engine()
    scene.scheduler.events[0].engine_lost()
    scene.connect()
    assert scene.engine.submitted[-1][0].generated == [7]
    assert "drain" not in scene.engine.commands


async def test_next_engine_gets_the_commands_in_force(scene: SchedulerScene) -> None:
    scene.connect()
    scene.scheduler.engine.set_mode("lockstep")
    scene.scheduler.pause_engine()
    scene.scheduler.events[0].engine_lost()
    scene.engine.commands.clear()
    scene.connect()
    assert scene.engine.commands == ["lockstep", "pause"]
    scene.scheduler.resume_engine()
    scene.scheduler.engine.set_mode("continuous")
    scene.scheduler.events[0].engine_lost()
    scene.engine.commands.clear()
    scene.connect()
    assert scene.engine.commands == []
