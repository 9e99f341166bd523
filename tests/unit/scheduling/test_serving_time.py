"""The serving-time model on outcomes that it can represent, with and without noise."""

from random import Random
from statistics import median

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as budget
from hypothesis import strategies as st

from gateway.scheduling.learned_cost import nonnegative_least_squares
from gateway.scheduling.serving_time import (
    PRIOR,
    CostTerms,
    ServingTime,
    batch_seconds,
    same_order,
    serving_seconds,
)

paces = st.builds(
    CostTerms,
    batch=st.floats(0, 0.1),
    prompt_token=st.floats(1e-6, 1e-2),
    step=st.floats(1e-4, 1e-1),
    sequence_step=st.floats(0, 1e-2),
    token_read=st.floats(0, 1e-5),
)


def a_batch(random: Random) -> tuple[int, int, int]:
    return random.randint(1, 64), random.randint(5, 1500), random.randint(2, 800)


def errors(model: ServingTime, coefficients: CostTerms, random: Random) -> list[float]:
    batches = [a_batch(random) for _ in range(100)]
    return [abs(model.estimate(*b) / serving_seconds(coefficients, *b) - 1) for b in batches]


@given(paces, st.integers(0, 1000))
def test_times_of_many_batches_are_those_of_each(coefficients: CostTerms, seed: int) -> None:
    batches = [a_batch(Random(seed + place)) for place in range(5)]
    found = batch_seconds(coefficients, *np.array(batches, np.float64).T)
    assert found == pytest.approx([serving_seconds(coefficients, *batch) for batch in batches])


@budget(max_examples=25, deadline=None)
@given(paces, st.integers(0, 1000))
def test_estimate_converges_on_outcomes_of_its_form(coefficients: CostTerms, seed: int) -> None:
    random, model = Random(seed), ServingTime()
    for _ in range(150):
        batch = a_batch(random)
        noise = random.lognormvariate(0, 0.1)
        model.observe(*batch, serving_seconds(coefficients, *batch) * noise)
    assert median(errors(model, coefficients, random)) <= 0.10


def test_first_outcomes_may_differ_much_from_each_other() -> None:
    coefficients, random, model = CostTerms(0.0, 2**-7, 2**-9, 0.0, 0.0), Random(335), ServingTime()
    for _ in range(150):  # the first batch is small, the next two are not
        batch = a_batch(random)
        noise = random.lognormvariate(0, 0.1)
        model.observe(*batch, serving_seconds(coefficients, *batch) * noise)
    assert median(errors(model, coefficients, random)) <= 0.05


@given(st.floats(1e-3, 1e3))
def test_one_outcome_sets_the_scale(scale: float) -> None:
    model = ServingTime()
    engine = CostTerms(*(scale * cost for cost in PRIOR))
    model.observe(4, 100, 50, serving_seconds(engine, 4, 100, 50))
    assert max(errors(model, engine, Random(1))) <= 0.05


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 2000), st.floats(1, 2000),
                          st.floats(1e-3, 1e3)), max_size=20))  # fmt: skip
@example([(1, 1, 1.0, 443.0), (1, 1, 1.0, 488.0), (1, 1, 1.0, 917.0), (29, 1, 1582.0, 2.0**-8)])
def test_costs_are_never_negative_and_estimates_never_zero(
    outcomes: list[tuple[int, int, float, float]],
) -> None:
    model = ServingTime()
    for outcome in outcomes:
        model.observe(*outcome)
        assert min(model.coefficients) >= 0
        assert model.estimate(1, 1, 1) > 0
        assert np.isfinite(model.coefficients).all()


@pytest.mark.parametrize("nonsense", [0.0, -1.0, float("nan"), float("inf")])
def test_invalid_time_is_ignored(nonsense: float) -> None:
    model = ServingTime()
    model.observe(1, 10, 10, nonsense)
    assert model.coefficients == PRIOR


def test_one_outlier_does_not_spoil_the_estimates() -> None:
    random, model = Random(3), ServingTime()
    for number in range(100):
        batch = a_batch(random)
        model.observe(*batch, 1e5 if number == 50 else serving_seconds(PRIOR, *batch))
    assert median(errors(model, PRIOR, random)) <= 0.10


def test_estimate_grows_with_size_and_lengths() -> None:
    model = ServingTime()
    usual = model.estimate(4, 100, 50)
    assert usual < min(
        model.estimate(8, 100, 50), model.estimate(4, 200, 50), model.estimate(4, 100, 99)
    )


@given(st.integers(0, 10_000))
def test_nonnegative_least_squares_meets_the_optimality_conditions(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(7, 5))
    gram, moment = rows.T @ rows + 0.01 * np.eye(5), random.normal(size=5) * 3
    found = nonnegative_least_squares(gram, moment)
    slope = gram @ found - moment
    assert (found >= 0).all()
    assert (slope >= -1e-8).all()
    assert float(abs(found * slope).max()) <= 1e-6


def test_an_engine_twice_as_slow_keeps_the_order() -> None:
    assert same_order(PRIOR, CostTerms(*(2 * cost for cost in PRIOR)))
    assert not same_order(PRIOR, PRIOR._replace(prompt_token=1e-2))
