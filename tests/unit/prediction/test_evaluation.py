import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from gateway.prediction.evaluation import BLOCK, evaluate, kendall_tau, pinball
from gateway.quantiles import LEVELS

PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=40)


@given(PAIRS)
def test_tau_is_scipys(pairs: list[tuple[int, int]]) -> None:
    left, right = np.array(pairs, float).T
    if len(set(left)) > 1 and len(set(right)) > 1:
        assert kendall_tau(left, right) == pytest.approx(kendalltau(left, right).statistic)
    else:
        assert kendall_tau(left, right) == 0.0


def test_tau_over_several_blocks_is_scipys() -> None:
    random = np.random.default_rng(1)
    left = random.integers(0, 50, 2 * BLOCK + 3).astype(float)
    right = left + random.integers(0, 50, len(left))
    assert kendall_tau(left, right) == pytest.approx(kendalltau(left, right).statistic)


def test_pinball_is_least_at_the_true_quantiles() -> None:
    lengths = np.random.default_rng(2).normal(size=2_000)
    exact = np.tile(np.quantile(lengths, LEVELS), (len(lengths), 1))
    assert pinball(lengths, exact) < pinball(lengths, exact + 0.2)
    assert pinball(lengths, exact) < pinball(lengths, exact - 0.2)


def test_pinball_charges_the_level_for_a_shortfall() -> None:
    assert pinball(np.array([10.0]), np.full((1, 6), 8.0)) == pytest.approx(2 * np.mean(LEVELS))


def test_scorecard_of_a_perfect_prediction() -> None:
    lengths = np.array([1.0, 5.0, 20.0, 80.0])
    card = evaluate(lengths, np.tile(lengths[:, None], (1, 6)))
    assert (card.rows, card.pinball, card.mae, card.log_rmse) == (4, 0, 0, 0)
    assert (card.tau, card.coverage, card.reserved) == (1, 1, 1)
