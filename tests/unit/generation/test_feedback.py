"""Feedback to the policy: completions, preemptions, and trust in predictions."""

import pytest

from engine.protocol import Finish
from gateway.scheduling.control_loop import ENDS_BETWEEN_JUDGEMENTS
from tests.unit.generation.conftest import SchedulerScene


async def answered(scene: SchedulerScene, count: int) -> None:
    for _ in range(count):
        request = scene.request(length=4.0)
        await scene.enqueue(request)
        scene.step({request.sequence_id: [7]}, [Finish(request.sequence_id, "stop")])


def untrusted(scene: SchedulerScene) -> float | None:
    registry = scene.scheduler.metrics.registry
    return registry.get_sample_value("lmaas_policy_fallback", {"reason": "untrusted"})


async def test_distrust_is_shown_at_once_with_an_empty_queue(scene: SchedulerScene) -> None:
    scene.connect()
    scene.outcomes.trusted = False
    await answered(scene, ENDS_BETWEEN_JUDGEMENTS - 1)
    assert (untrusted(scene), scene.loop.trusted) == (0, True)
    await answered(scene, 1)
    assert (untrusted(scene), scene.loop.trusted) == (1, False)


async def test_every_preemption_of_a_request_counts(
    scene: SchedulerScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed: list[tuple[int, int]] = []
    scene.connect()
    admission = scene.scheduler.policy.admission
    monkeypatch.setattr(admission, "observed", lambda *counts: observed.append(counts))
    request = scene.request(length=4.0)
    await scene.enqueue(request)
    for _ in range(3):
        scene.step(preempted=[request.sequence_id])
    scene.step({}, [Finish(request.sequence_id, "stop")])
    await answered(scene, 1)
    assert observed == [(0, 3), (0, 0)]


@pytest.mark.parametrize("others_wait", [False, True])
async def test_ends_without_preemption_count_only_while_others_wait(
    scene: SchedulerScene, monkeypatch: pytest.MonkeyPatch, others_wait: bool
) -> None:
    observed: list[tuple[int, int]] = []
    scene.connect()
    admission = scene.scheduler.policy.admission
    monkeypatch.setattr(admission, "observed", lambda *counts: observed.append(counts))
    requests = [scene.request(length=4.0) for _ in range(3)]
    for request in requests:
        await scene.enqueue(request)
        scene.step({request.sequence_id: [7]})
    if others_wait:
        scene.scheduler.drain_engine()
        await scene.enqueue(scene.request())
    for request in requests:
        scene.step({}, [Finish(request.sequence_id, "stop")])
    assert observed == [(int(others_wait), 0)] * 3
