"""The bias correction of an app: the weighted ridge solution, and changes of its answers."""

import math
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.prediction.adaptation import bias_correction
from gateway.prediction.adaptation.bias_correction import (
    CENTRE_LOG_LENGTH,
    DISCOUNT,
    OUTCOMES_ON_TRIAL,
    P90_Z,
    PRIOR_OUTCOMES,
    SEEN_PRIOR_SD,
    UNSEEN_PRIOR_SD,
    BiasCorrection,
    BiasCorrections,
)

APP, OTHER = UUID(int=1), UUID(int=2)
SPREAD = 0.3
ADAPTATION_OUTCOMES = 30  # outcomes within which a doubling is corrected
SMALL_OUTCOME = st.tuples(st.floats(1, 6), st.floats(1, 6), st.floats(-0.1, 0.1))
OUTCOMES = st.lists(SMALL_OUTCOME, min_size=1, max_size=8)  # too few and too small for an alarm


def raw(median: float, spread: float = SPREAD) -> tuple[float, float, float]:
    return median, median + P90_Z * spread, median + 1.6449 * spread


def learn_noise(
    correction: BiasCorrection,
    count: int,
    *,
    mean: float = 0.0,
    noise: float = SPREAD,
    seed: int = 0,
) -> int:
    """Learn residuals around a mean; the number of alarms."""
    random = np.random.default_rng(seed)
    alarms = 0
    for _ in range(count):
        log_uil, median = random.uniform(2, 5, 2)
        alarms += correction.learn(log_uil, raw(median), mean + random.normal(0, noise))
    return alarms


@given(OUTCOMES, st.booleans())
@settings(deadline=None)
def test_recursion_is_the_weighted_ridge_solution(
    outcomes: list[tuple[float, float, float]], unseen: bool
) -> None:
    correction = BiasCorrection(unseen=unseen)
    squares, residuals = [], []
    for log_uil, median, residual in outcomes:
        squares.append((residual - correction.shift(log_uil, raw(median))) ** 2 / SPREAD**2)
        residuals.append(residual)
        correction.learn(log_uil, raw(median), residual)
    weights = DISCOUNT ** np.arange(len(outcomes))[::-1]
    noise = SPREAD**2 * (PRIOR_OUTCOMES + weights @ squares) / (PRIOR_OUTCOMES + weights.sum())
    rows = np.array([(1.0, x - CENTRE_LOG_LENGTH, s - CENTRE_LOG_LENGTH) for x, s, _ in outcomes])
    prior = np.diag(1 / np.array(UNSEEN_PRIOR_SD if unseen else SEEN_PRIOR_SD) ** 2)
    expected = np.linalg.solve(
        rows.T @ (weights[:, None] * rows) / noise + prior, rows.T @ (weights * residuals) / noise
    )
    for log_uil, median in ((2.0, 5.0), (4.0, 3.0)):
        place = np.array((1.0, log_uil - CENTRE_LOG_LENGTH, median - CENTRE_LOG_LENGTH))
        assert correction.shift(log_uil, raw(median)) == pytest.approx(
            float(place @ expected), abs=1e-9
        )


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_known_app_follows_a_doubling(factor: float) -> None:
    correction = BiasCorrection(unseen=False)
    learn_noise(correction, 300)
    learn_noise(correction, ADAPTATION_OUTCOMES, mean=math.log(factor), seed=1)
    assert correction.shift(3.5, raw(3.5)) == pytest.approx(math.log(factor), abs=0.15)


def test_unseen_app_follows_a_second_change() -> None:
    correction = BiasCorrection(unseen=True)
    learn_noise(correction, 200, mean=1.0)
    assert learn_noise(correction, ADAPTATION_OUTCOMES, mean=0.3, seed=1) == 1
    assert correction.shift(3.5, raw(3.5)) == pytest.approx(0.3, abs=0.15)


def test_known_app_without_change_is_barely_corrected() -> None:
    correction = BiasCorrection(unseen=False)
    assert learn_noise(correction, 2_000) == 0
    assert abs(correction.shift(5.0, raw(2.0))) < 0.1
    assert correction.stretch == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_a_run_of_chance_is_forgotten_at_once(seed: int) -> None:
    correction = BiasCorrection(unseen=False)
    learn_noise(correction, 100, seed=seed)
    alarms = [correction.learn(3.5, raw(3.5), -1.6 * SPREAD) for _ in range(13)]
    assert any(alarms)
    learn_noise(correction, 8, seed=seed + 1)
    assert abs(correction.shift(3.5, raw(3.5))) < SPREAD / 4
    learn_noise(correction, OUTCOMES_ON_TRIAL, seed=seed + 2)
    assert abs(correction.shift(3.5, raw(3.5))) < SPREAD / 4


@pytest.mark.parametrize("seed", range(5))
def test_a_change_that_lasts_stays_after_its_trial(seed: int) -> None:
    correction = BiasCorrection(unseen=False)
    learn_noise(correction, 100, seed=seed)
    learn_noise(correction, 3 * OUTCOMES_ON_TRIAL, mean=0.7, seed=seed + 1)
    assert correction.shift(3.5, raw(3.5)) == pytest.approx(0.7, abs=0.1)
    learn_noise(correction, 3 * OUTCOMES_ON_TRIAL, mean=0.0, seed=seed + 2)
    assert correction.shift(3.5, raw(3.5)) == pytest.approx(0.0, abs=0.1)


def test_unseen_app_learns_intercept_and_slopes() -> None:
    correction, random = BiasCorrection(unseen=True), np.random.default_rng(2)
    for _ in range(200):
        log_uil, median = random.uniform(2, 5, 2)
        correction.learn(log_uil, raw(median), 0.5 + 0.4 * (log_uil - 3.5) - 0.3 * (median - 3.5))
    assert correction.shift(4.5, raw(4.5)) == pytest.approx(0.6, abs=0.05)


@pytest.mark.parametrize("share", [0.3, 2.0])
def test_unseen_app_is_stretched_to_the_spread_of_its_residuals(share: float) -> None:
    correction = BiasCorrection(unseen=True)
    learn_noise(correction, 300, noise=share * SPREAD)
    assert correction.stretch == pytest.approx(share, rel=0.15)


def test_one_outlier_raises_no_alarm() -> None:
    correction = BiasCorrection(unseen=False)
    learn_noise(correction, 100)
    assert not correction.learn(3.5, raw(3.5), 9.0)
    assert abs(correction.shift(3.5, raw(3.5))) < 0.1


def test_corrections_of_apps_are_independent() -> None:
    alone, together = BiasCorrections(), BiasCorrections()
    for number in range(60):
        alone.learn(APP, 3.0, raw(3.0), 0.1 * (number % 7))
    for number in range(60):
        together.learn(OTHER, 4.0, raw(4.0), -1.0)
        together.learn(APP, 3.0, raw(3.0), 0.1 * (number % 7))
    assert together.shift(APP, 2.0, raw(4.0)) == alone.shift(APP, 2.0, raw(4.0))
    assert together.stretch(APP) == alone.stretch(APP)


def test_app_without_outcomes_is_not_corrected() -> None:
    corrections = BiasCorrections()
    assert corrections.shift(APP, 3.0, raw(3.0)) == 0.0
    assert corrections.stretch(APP) == 1.0


def test_number_of_apps_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bias_correction, "MAX_APPS", 3)
    corrections = BiasCorrections()
    for app in range(5):
        for _ in range(9):
            corrections.learn(UUID(int=app), 3.0, raw(3.0), 0.5)
    known = [corrections.shift(UUID(int=app), 3.0, raw(3.0)) != 0.0 for app in range(5)]
    assert known == [False, False, True, True, True]
