import math
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.prediction.adaptation.conformal import (
    CALIBRATED_LEVELS,
    MIN_APP_SCORES,
    MIN_GLOBAL_SCORES,
    NO_OFFSETS,
    WINDOW_SCORES,
    ConformalCalibration,
    ConformityScores,
    calibrated_tokens,
    conformal_offset,
)

APP, OTHER = UUID(int=1), UUID(int=2)
LOGS = st.lists(st.floats(-50, 50), min_size=6, max_size=6)


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=80), st.sampled_from(CALIBRATED_LEVELS))
def test_offset_is_the_conformal_order_statistic(scores: list[float], level: float) -> None:
    n = len(scores)
    rank = min(math.ceil(round((n + 1) * level, 6)), n)
    found = conformal_offset(np.array(scores), np.zeros(n, bool), level)
    assert found == sorted(scores)[rank - 1]


@given(LOGS, st.tuples(st.floats(-9, 9), st.floats(-9, 9)), st.integers(1, 10**6))
def test_calibrated_quantiles_ascend_within_one_and_max_tokens(
    scored: list[float], offsets: tuple[float, float], max_tokens: int
) -> None:
    quantiles = calibrated_tokens(scored, offsets, max_tokens)
    assert list(quantiles) == sorted(quantiles)
    assert quantiles[0] >= 1
    assert quantiles[-1] <= max_tokens


def test_offset_is_signed() -> None:
    calibration = ConformalCalibration()
    for _ in range(MIN_GLOBAL_SCORES):
        calibration.learn(APP, (math.log(100), math.log(200)), 50, censored=False)
    assert calibration.offsets(APP) == pytest.approx((math.log(0.5), math.log(0.25)))


def test_app_with_few_scores_uses_the_global_offset() -> None:
    calibration = ConformalCalibration()
    for _ in range(MIN_GLOBAL_SCORES - 1):
        calibration.learn(OTHER, (0.0, 0.0), 10, censored=False)
    assert calibration.offsets(APP) == NO_OFFSETS
    calibration.learn(OTHER, (0.0, 0.0), 10, censored=False)
    assert calibration.offsets(APP) == pytest.approx((math.log(10),) * 2)
    for _ in range(MIN_APP_SCORES):
        calibration.learn(APP, (0.0, 0.0), 20, censored=False)
    assert calibration.offsets(APP) == pytest.approx((math.log(20),) * 2)
    assert calibration.offsets(OTHER) == pytest.approx((math.log(20),) * 2)


def test_cut_off_length_is_a_lower_bound() -> None:
    calibration = ConformalCalibration()
    for number in range(40):
        calibration.learn(APP, (0.0, 0.0), 10 if number % 4 else 5, censored=number % 4 == 0)
    assert calibration.offsets(APP) == pytest.approx((math.log(10),) * 2)


def test_coverage_returns_within_a_window_after_the_lengths_double() -> None:
    noise = np.random.default_rng(3).normal(4.0, 0.6, size=4 * WINDOW_SCORES)
    upper = 4.0 + 0.6 * 1.2816  # exact until the change
    calibration = ConformalCalibration()
    covered = []
    for turn, log_length in enumerate(noise):
        tokens = round(math.exp(log_length) * (2 if turn >= 2 * WINDOW_SCORES else 1))
        upper_bound = upper + calibration.offsets(APP)[0]
        covered.append(math.log(tokens) <= upper_bound)
        calibration.learn(APP, (upper, upper + 0.2), tokens, censored=False)
    assert np.mean(covered[WINDOW_SCORES : 2 * WINDOW_SCORES]) == pytest.approx(0.9, abs=0.03)
    assert np.mean(covered[-WINDOW_SCORES:]) == pytest.approx(0.9, abs=0.03)


def test_calibration_starts_with_initial_scores() -> None:
    start = ConformityScores(
        [APP] * MIN_APP_SCORES, [(0.5, 0.7)] * MIN_APP_SCORES, [False] * MIN_APP_SCORES
    )
    assert ConformalCalibration(start).offsets(APP) == pytest.approx((0.5, 0.7))


def test_forgotten_app_uses_the_global_offset_again() -> None:
    calibration = ConformalCalibration()
    for _ in range(MIN_APP_SCORES):
        calibration.learn(OTHER, (0.0, 0.0), 10, censored=False)
        calibration.learn(APP, (0.0, 0.0), 1_000, censored=False)
    assert calibration.offsets(APP) == pytest.approx((math.log(1_000),) * 2)
    calibration.forget(APP)
    assert calibration.offsets(APP) == calibration.offsets(UUID(int=3))
    assert calibration.offsets(OTHER) == pytest.approx((math.log(10),) * 2)
    calibration.forget(UUID(int=3))  # an app without scores
