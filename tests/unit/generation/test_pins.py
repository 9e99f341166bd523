"""Groups' prefixes in the dispatcher, with an engine that only records its commands."""

import asyncio
from typing import Any

import pytest

from engine.protocol import BACKGROUND, Finish
from gateway.errors import EngineLost
from gateway.generation import pins
from gateway.generation.request_state import RequestState
from gateway.scheduling.requests import SharedPrefix
from tests.unit.generation.conftest import SchedulerScene

GROUP = SharedPrefix("group", 32)
PREFIX = [5] * 32


def a_line(scene: SchedulerScene, last: int = 7, tenant: int = 1, **fields: Any) -> RequestState:
    fields = {"prefix": GROUP, "prompt": [*PREFIX, last], **fields}
    return scene.request(lane="batch", tenant=tenant, **fields)


def finish(scene: SchedulerScene, *states: RequestState) -> None:
    scene.step(finished=[Finish(state.sequence_id, "stop") for state in states])


async def test_a_prefix_is_pinned_with_its_first_member_until_the_last_has_ended(
    scene: SchedulerScene,
) -> None:
    scene.connect()
    first, second = a_line(scene, 7), a_line(scene, 8)
    await scene.enqueue(first, second)
    [pin] = scene.engine.pins
    assert (pin.tokens, pin.salt, pin.preempt_first) == (PREFIX, first.tenant, BACKGROUND)
    finish(scene, first)
    assert "unpin" not in " ".join(scene.engine.commands)
    finish(scene, second)
    assert scene.engine.commands[-1] == f"unpin ['{pin.name}']"
    scene.scheduler.pins.check()
    assert len(scene.scheduler.pins) == 0


@pytest.mark.parametrize("waits", [True, False])
async def test_a_cancelled_member_is_one_that_ended(scene: SchedulerScene, waits: bool) -> None:
    scene.connect()
    if waits:
        scene.scheduler.pause_engine()
    line = a_line(scene)
    await scene.enqueue(line)
    assert bool(scene.waiting) == waits
    scene.scheduler.cancel(line)
    assert len(scene.scheduler.pins) == 0
    assert not scene.ended  # it may run again, under the same id


async def test_a_kept_group_stays_open_without_members(scene: SchedulerScene) -> None:
    scene.connect()
    line = a_line(scene)
    await scene.enqueue(line)
    scene.scheduler.pins.keep(line)
    finish(scene, line)
    assert len(scene.scheduler.pins) == 1
    await scene.enqueue(a_line(scene, 8))
    assert len(scene.engine.pins) == 1
    scene.scheduler.cancel_all(EngineLost("gone"))
    scene.scheduler.pins.keep(None)
    assert len(scene.scheduler.pins) == 0


async def test_a_lost_prefix_is_pinned_again_with_the_next_member(scene: SchedulerScene) -> None:
    scene.connect()
    await scene.enqueue(a_line(scene))
    [pin] = scene.engine.pins
    scene.step(unpinned=[pin.name, "unknown"])
    metrics = scene.scheduler.metrics.registry
    assert metrics.get_sample_value("lmaas_pins_lost_total") == 1
    await scene.enqueue(a_line(scene, 8))
    assert scene.engine.pins == [pin, pin]


async def test_a_new_engine_has_the_pins_of_what_runs(scene: SchedulerScene) -> None:
    scene.connect()
    await scene.enqueue(a_line(scene), a_line(scene, 8))
    scene.scheduler.events[0].engine_lost()
    scene.connect()
    await asyncio.sleep(0)
    assert [pin.tokens for pin in scene.engine.pins] == [PREFIX, PREFIX]


async def test_tenants_do_not_share_a_group(scene: SchedulerScene) -> None:
    scene.connect()
    await scene.enqueue(a_line(scene), a_line(scene, tenant=9))
    assert len({pin.name for pin in scene.engine.pins}) == 2


async def test_a_line_that_begins_otherwise_is_no_member(scene: SchedulerScene) -> None:
    scene.connect()
    other = a_line(scene, prompt=[6] * 40)
    await scene.enqueue(a_line(scene), other)
    assert other.prefix is None
    assert len(scene.engine.pins) == 1


async def test_groups_beyond_the_bound_run_without_a_pin(
    scene: SchedulerScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pins, "MAX_PREFIXES", 1)
    scene.connect()
    second = a_line(scene, prefix=SharedPrefix("second", 32), prompt=[6] * 40)
    await scene.enqueue(a_line(scene), second)
    assert (len(scene.engine.pins), second.prefix, scene.running) == (1, None, 2)


async def test_lines_yield_and_count_in_no_bound_or_estimate(scene: SchedulerScene) -> None:
    scene.connect()
    line, asked = a_line(scene), scene.request()
    await scene.enqueue(line)
    assert line.preempt_first == BACKGROUND
    scene.scheduler.pause_engine()
    await scene.enqueue(a_line(scene, 8), asked)
    assert scene.scheduler.load.total.requests == 1
    assert asked.trace.queue_ahead == 0
    page = scene.scheduler.read_queue(limit=9)
    entries = {entry.id: entry for entry in page.requests}
    assert (entries[line.id].lane, entries[line.id].shared_tokens) == ("batch", 32)
    assert (entries[asked.id].lane, entries[asked.id].group) == ("interactive", None)
    assert page.totals.waiting == 2


@pytest.mark.parametrize("policy", ["fcfs", "s3"])
async def test_pins_count_under_the_next_policy_too(scene: SchedulerScene, policy: str) -> None:
    scene.connect()
    line = a_line(scene)
    await scene.enqueue(line)
    scene.scheduler.use_policy(policy)
    scene.scheduler.pause_engine()
    await scene.enqueue(a_line(scene, 8))
    finish(scene, line)
    assert scene.engine.commands[-1] == "pause"
    scene.scheduler.cancel_all(EngineLost("gone"))
    assert len(scene.scheduler.pins) == 0
