"""Feedback to the policy: trust in predictions, and the cost of steps."""

from random import Random

import pytest

from engine.protocol import Finish, StepWork
from gateway.scheduling.admission.future_peak import FuturePeak
from gateway.scheduling.admission.prices import prices
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


@pytest.mark.parametrize(("swap_token_s", "lost_s"), [(0.0, 1e-4), (1e-3, 1e-4), (2e-5, 2 * 2e-5)])
async def test_admission_weighs_by_the_cost_that_steps_have_shown(
    scene: SchedulerScene, swap_token_s: float, lost_s: float
) -> None:
    scene.connect()
    admission = scene.scheduler.policy.admission
    assert isinstance(admission, FuturePeak)
    random = Random(1)
    for _ in range(320):
        work = StepWork(random.choice([0, 64, 256]), 0.0, random.randint(1, 16), 0)
        took_s = 0.02 + 1e-4 * work.prompt_tokens + 1e-3 * work.sequences
        scene.step(work=work, took_s=took_s, swap_token_s=swap_token_s)
    assert admission._cost is not None
    found = prices(admission._cost, 10, 0.0)
    assert found.produced_s == pytest.approx(0.02 / 10, rel=0.05)
    assert found.lost_s == pytest.approx(lost_s, rel=0.1)
