"""The cost of steps, learned from an engine of known cost."""

from random import Random

import pytest

from engine.protocol import KvState, Step, StepWork
from gateway.generation.step_cost import MIN_STEPS, StepCoefficients, StepCostLearner

ENGINE = StepCoefficients(4e-3, 2e-4, 3e-8, 5e-4, 2e-7)


def some_work(random: Random) -> StepWork:
    sequences = random.randint(0, 32)
    prompt_tokens = random.choice([0, 0, 0, random.randint(16, 512)]) or (not sequences) * 16
    return StepWork(
        prompt_tokens,
        prompt_tokens * random.random() * 900,
        sequences,
        sequences * random.randint(20, 900),
    )


def seconds(engine: StepCoefficients, work: StepWork) -> float:
    amounts = 1.0, work.prompt_tokens, work.prompt_reads, work.sequences, work.kv_tokens
    return sum(c * a for c, a in zip(engine, amounts, strict=True))


def a_step(work: StepWork | None, took_s: float) -> Step:
    return Step(1, KvState(10, 10, 16), {}, took_s=took_s, work=work)


def test_every_coefficient_is_found_without_noise() -> None:
    random, learner = Random(1), StepCostLearner()
    for _ in range(1000):
        work = some_work(random)
        learner.observe(a_step(work, seconds(ENGINE, work)))
    found = learner.cost
    assert found is not None
    assert found.coefficients == pytest.approx(ENGINE, rel=0.01)
    assert (found.steps, found.error < 0.05) == (1000, True)


def test_total_time_of_noisy_steps_is_kept() -> None:
    random, learner = Random(2), StepCostLearner()
    total_s, works = 0.0, [some_work(random) for _ in range(2000)]
    for work in works:
        took_s = seconds(ENGINE, work) * random.lognormvariate(0, 0.5)
        total_s += took_s
        learner.observe(a_step(work, took_s))
    found = learner.cost
    assert found is not None
    modelled_s = sum(seconds(found.coefficients, work) for work in works)
    assert modelled_s == pytest.approx(total_s, rel=0.02)


def test_few_steps_and_steps_of_unreported_work_are_no_measurement() -> None:
    random, learner = Random(3), StepCostLearner()
    for _ in range(MIN_STEPS - 1):
        work = some_work(random)
        learner.observe(a_step(work, seconds(ENGINE, work)))
        learner.observe(a_step(None, 1.0))
        learner.observe(a_step(work, 0.0))
    assert learner.cost is None
