"""The cost of a step, learned from steps."""

from random import Random

import numpy as np
import pytest

from engine.protocol import StepWork
from engine.step.step_cost import (
    MAX_STEPS,
    MIN_STEPS,
    StepCost,
    amounts,
    full_rows,
    nonnegative_least_squares,
)

TRUE = (5e-3, 1e-3, 2e-5, 1e-8, 1e-4, 1e-7)


def seconds(work: StepWork, slower: float = 1.0) -> float:
    return slower * sum(c * a for c, a in zip(TRUE, amounts(work), strict=True))


def some_work(random: Random) -> StepWork:
    prompt = random.choice([0, 0, random.randrange(1, 512)])
    rows = random.randrange(64)
    return StepWork(prompt, prompt * random.randrange(2000), rows, rows * random.randrange(2000))


def learned(steps: int, noise: float = 0.0, outliers: float = 0.0) -> StepCost:
    random, cost = Random(4), StepCost()
    for _ in range(steps):
        work = some_work(random)
        slow = random.uniform(3, 30) if random.random() < outliers else 1.0
        cost.observe(work, seconds(work) * slow * random.uniform(1 - noise, 1 + noise))
    return cost


def error(cost: StepCost) -> float:
    """The largest relative error of some other steps."""
    random = Random(5)
    works = [some_work(random) for _ in range(200)]
    return max(abs((cost.seconds(work) or 0) / seconds(work) - 1) for work in works)


def test_nothing_is_known_before_enough_steps() -> None:
    assert learned(MIN_STEPS - 1).seconds(StepWork(0, 0, 1, 1)) is None
    assert learned(MIN_STEPS).seconds(StepWork(0, 0, 1, 1)) is not None


def test_the_time_of_any_step_is_learned() -> None:
    assert error(learned(200)) < 0.05


def test_noise_and_delayed_steps_change_it_little() -> None:
    assert error(learned(400, noise=0.1, outliers=0.1)) < 0.1


def test_a_slower_machine_is_noticed() -> None:
    cost, random = learned(400), Random(6)
    for _ in range(MAX_STEPS):
        work = some_work(random)
        cost.observe(work, seconds(work, slower=2))
    assert error(cost) == pytest.approx(1.0, abs=0.02)


def test_steps_before_a_change_of_the_pool_do_not_count() -> None:
    cost = learned(200)
    cost.clear()
    assert cost.seconds(StepWork(0, 0, 1, 1)) is None


def test_a_time_that_is_none_is_ignored() -> None:
    cost = StepCost()
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        for _ in range(MIN_STEPS):
            cost.observe(StepWork(0, 0, 1, 1), bad)
    assert cost.coefficients is None


def test_amounts_that_always_come_together_share_their_cost() -> None:
    found = nonnegative_least_squares(np.ones((2, 2)), np.full(2, 3.0))
    assert found.sum() == pytest.approx(3.0)
    assert (found >= 0).all()


def test_rows_of_full_speed_reach_nine_tenths_of_what_any_number_reaches() -> None:
    each_s = TRUE[4] + 1000 * TRUE[5]
    rows = full_rows(TRUE, 1000)
    assert rows is not None
    assert rows / (TRUE[0] + each_s * rows) == pytest.approx(0.9 / each_s)
    found = learned(400, noise=0.1, outliers=0.1)
    assert found.seconds(StepWork(0, 0, 1, 1))
    assert found.full_rows == pytest.approx(rows, rel=0.2)


@pytest.mark.parametrize("term", [0, 4])
def test_a_fit_that_could_not_separate_steps_from_rows_has_no_rows_of_full_speed(term: int) -> None:
    coefficients = [*TRUE]
    coefficients[term] = coefficients[5] = 0.0
    assert full_rows(tuple(coefficients), 1000) is None


def test_steps_of_like_numbers_of_rows_leave_the_rows_of_full_speed_as_they_were() -> None:
    cost, random = learned(400), Random(7)
    assert cost.coefficients
    before = cost.full_rows
    for number in range(MAX_STEPS):
        work = StepWork(0, 0, 50 + number % 3, 100)
        cost.observe(work, seconds(work) * random.uniform(0.7, 1.3))
    assert cost.coefficients
    assert cost.full_rows == before
    cost.clear()
    assert cost.full_rows is None
