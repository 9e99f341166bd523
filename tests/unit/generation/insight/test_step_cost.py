"""The cost of steps, learned from an engine of known cost."""

from random import Random

import pytest
from msgspec import structs

from engine.protocol import KvState, Step, StepWork
from gateway.generation.insight.step_cost import MIN_STEPS, StepCostLearner
from gateway.scheduling.admission.prices import LinearStepTime

ENGINE = LinearStepTime(4e-3, 2e-4, 5e-4, 2e-7, 3e-8)


def some_work(random: Random) -> StepWork:
    sequences = random.randint(0, 32)
    prompt_tokens = random.choice([0, 0, 0, random.randint(16, 512)]) or (not sequences) * 16
    return StepWork(
        prompt_tokens,
        prompt_tokens * random.random() * 900,
        sequences,
        sequences * random.randint(20, 900),
    )


def seconds(engine: LinearStepTime, work: StepWork) -> float:
    return engine.seconds(work.prompt_tokens, work.sequences, work.kv_tokens, work.prompt_reads)


def a_step(work: StepWork | None, took_s: float, steps: int = 1) -> Step:
    return Step(1, KvState(10, 10, 16), {}, steps=steps, took_s=took_s, work=work)


def test_an_engine_of_the_modelled_form_is_found() -> None:
    random, learner = Random(1), StepCostLearner()
    for _ in range(1000):
        work = some_work(random)
        learner.observe(a_step(work, seconds(ENGINE, work)))
    found = learner.cost
    assert found is not None
    for work in (some_work(random) for _ in range(100)):
        assert seconds(found.coefficients, work) == pytest.approx(seconds(ENGINE, work), rel=0.03)
    assert (found.steps, found.error < 0.05) == (1000, True)


def test_steps_that_are_reported_together_cost_the_same() -> None:
    random, learner = Random(1), StepCostLearner()
    for _ in range(1000):
        works = [some_work(random) for _ in range(random.randint(1, 16))]
        total = StepWork(*map(sum, zip(*map(structs.astuple, works), strict=True)))
        took_s = sum(seconds(ENGINE, work) for work in works)
        learner.observe(a_step(total, took_s, steps=len(works)))
    found = learner.cost
    assert found is not None
    for work in (some_work(random) for _ in range(100)):
        assert seconds(found.coefficients, work) == pytest.approx(seconds(ENGINE, work), rel=0.03)


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


def test_counts_that_grow_together_share_the_cost_as_in_any_engine() -> None:
    random, learner = Random(4), StepCostLearner()
    for _ in range(400):
        sequences = random.randint(4, 20)
        work = StepWork(0, 0.0, sequences, sequences * random.randint(95, 105))
        learner.observe(a_step(work, seconds(ENGINE, work) * random.lognormvariate(0, 0.4)))
    found = learner.cost
    assert found is not None
    assert found.coefficients.sequence_s > 100 * found.coefficients.kv_token_s


def test_recent_cost_follows_the_pace() -> None:
    random, learner = Random(4), StepCostLearner()
    for slower in (1.0, 2.0):
        for _ in range(600):
            work = some_work(random)
            learner.observe(a_step(work, slower * seconds(ENGINE, work)))
    recent, lasting = learner.recent, learner.cost
    assert recent is not None
    assert lasting is not None
    works = [some_work(random) for _ in range(300)]
    now_s = 2 * sum(seconds(ENGINE, work) for work in works)
    assert sum(seconds(recent, work) for work in works) == pytest.approx(now_s, rel=0.1)
    assert sum(seconds(lasting.coefficients, work) for work in works) < 0.9 * now_s
