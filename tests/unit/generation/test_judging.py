"""What the policy is told after every twenty answers."""

import pytest

from engine.protocol import Finish
from gateway.generation.dispatcher import ENDS_BETWEEN_JUDGEMENTS
from tests.unit.generation.conftest import Scene


async def answered(scene: Scene, count: int) -> None:
    for _ in range(count):
        request = scene.request(length=4.0)
        await scene.enqueue(request)
        scene.step({request.sequence_id: [7]}, [Finish(request.sequence_id, "stop")])


def untrusted(scene: Scene) -> float | None:
    registry = scene.dispatcher.metrics.registry
    return registry.get_sample_value("lmaas_policy_fallback", {"reason": "untrusted"})


async def test_distrust_is_told_at_once_though_nothing_waits(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.connect()
    monkeypatch.setattr(scene.dispatcher, "_trusted", lambda: False)
    await answered(scene, ENDS_BETWEEN_JUDGEMENTS - 1)
    assert (untrusted(scene), scene.dispatcher.trusts) == (0, True)
    await answered(scene, 1)
    assert (untrusted(scene), scene.dispatcher.trusts) == (1, False)


async def test_each_time_that_a_request_is_preempted_counts(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []
    scene.connect()
    admission = scene.dispatcher.policy.admission
    monkeypatch.setattr(admission, "observed", lambda *counts: told.append(counts))
    request = scene.request(length=4.0)
    await scene.enqueue(request)
    for _ in range(3):
        scene.step(preempted=[request.sequence_id])
    scene.step({}, [Finish(request.sequence_id, "stop")])
    await answered(scene, ENDS_BETWEEN_JUDGEMENTS - 1)
    assert told == [(0, 3)]


@pytest.mark.parametrize("others_wait", [False, True])
async def test_answers_without_a_preemption_count_only_while_others_wait(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, others_wait: bool
) -> None:
    told: list[tuple[int, int]] = []
    scene.connect()
    admission = scene.dispatcher.policy.admission
    monkeypatch.setattr(admission, "observed", lambda *counts: told.append(counts))
    requests = [scene.request(length=4.0) for _ in range(ENDS_BETWEEN_JUDGEMENTS)]
    for request in requests:
        await scene.enqueue(request)
        scene.step({request.sequence_id: [7]})
    if others_wait:
        scene.dispatcher.drain()
        await scene.enqueue(scene.request())
    for request in requests:
        scene.step({}, [Finish(request.sequence_id, "stop")])
    assert told == [(ENDS_BETWEEN_JUDGEMENTS if others_wait else 0, 0)]
