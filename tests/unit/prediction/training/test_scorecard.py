import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from gateway.evaluation.forecast import Forecast
from gateway.evaluation.scoring import score
from gateway.prediction.training.scorecard import BLOCK_ROWS, evaluate, kendall_tau, pinball
from gateway.quantiles import LEVELS

PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=40)


@given(PAIRS)
def test_tau_equals_scipys(pairs: list[tuple[int, int]]) -> None:
    left, right = np.array(pairs, float).T
    if len(set(left)) > 1 and len(set(right)) > 1:
        assert kendall_tau(left, right) == pytest.approx(kendalltau(left, right).statistic)
    else:
        assert kendall_tau(left, right) == 0.0


def test_tau_over_several_blocks_equals_scipys() -> None:
    random = np.random.default_rng(1)
    left = random.integers(0, 50, 2 * BLOCK_ROWS + 3).astype(float)
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
    assert (card.rows, card.pinball, card.mae, card.log_rmse_median) == (4, 0, 0, 0)
    assert (card.tau, card.coverage, card.over_mean) == (1, 1, 1)


def test_scorecard_keeps_the_names_that_stored_versions_have() -> None:
    lengths = np.array([1.0, 5.0, 20.0, 80.0])
    doubled = msgspec.to_builtins(evaluate(lengths, np.tile(2 * lengths[:, None], (1, 6))))
    assert set(doubled) == {
        *("rows", "pinball", "pinball_tokens", "mae"),
        *("log_rmse", "tau", "coverage", "reserved"),
    }
    assert (doubled["log_rmse"], doubled["reserved"]) == pytest.approx((np.log(2), 2))


def test_log_rmse_of_the_median_and_of_the_mean_are_two_measures() -> None:
    lengths = np.array([10.0, 10.0])
    skewed = Forecast.of(np.log(np.tile([10.0, 10.0, 10.0, 40.0, 40.0, 40.0], (2, 1))))
    card = msgspec.to_builtins(score(lengths, skewed))
    assert "log_rmse" not in card
    assert card["log_rmse_median"] == pytest.approx(0)
    assert card["log_rmse_mean"] > 0.3


def test_length_at_the_quantile_is_covered_though_a_logarithm_lost_a_bit() -> None:
    lengths = np.arange(1.0, 200.0)
    card = evaluate(lengths, np.exp(np.log(np.tile(lengths[:, None], (1, 6)))))
    assert card.coverage == 1
