"""The correction of an app, against the weighted ridge solution and against changed answers."""

import math
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.prediction.adaptation import bias_correction as correction
from gateway.prediction.adaptation.bias_correction import (
    FADING,
    FREE,
    HELD,
    MIDDLE,
    TRUST,
    UPPER,
    Correction,
    Corrections,
)

APP, OTHER = UUID(int=1), UUID(int=2)
SPREAD = 0.3
FOLLOWED = 30  # outcomes after which a doubling is made up for
CALM = st.tuples(st.floats(1, 6), st.floats(1, 6), st.floats(-0.1, 0.1))
OUTCOMES = st.lists(CALM, min_size=1, max_size=8)  # too few and too small to alarm anybody


def said(median: float, spread: float = SPREAD) -> tuple[float, float, float]:
    return median, median + UPPER * spread, median + 1.6449 * spread


def learn_noise(
    own: Correction, count: int, *, mean: float = 0.0, noise: float = SPREAD, seed: int = 0
) -> int:
    """Misses around a mean; how often they alarm."""
    random = np.random.default_rng(seed)
    alarms = 0
    for _ in range(count):
        log_uil, median = random.uniform(2, 5, 2)
        alarms += own.learn(log_uil, said(median), mean + random.normal(0, noise))
    return alarms


@given(OUTCOMES, st.booleans())
@settings(deadline=None)
def test_recursion_is_the_weighted_ridge_solution(
    outcomes: list[tuple[float, float, float]], free: bool
) -> None:
    own = Correction(free=free)
    squares, missed_by = [], []
    for log_uil, median, missed in outcomes:
        squares.append((missed - own.shift(log_uil, said(median))) ** 2 / SPREAD**2)
        missed_by.append(missed)
        own.learn(log_uil, said(median), missed)
    weights = FADING ** np.arange(len(outcomes))[::-1]
    noise = SPREAD**2 * (TRUST + weights @ squares) / (TRUST + weights.sum())
    rows = np.array([(1.0, x - MIDDLE, s - MIDDLE) for x, s, _ in outcomes])
    prior = np.diag(1 / np.array(FREE if free else HELD) ** 2)
    wanted = np.linalg.solve(
        rows.T @ (weights[:, None] * rows) / noise + prior, rows.T @ (weights * missed_by) / noise
    )
    for log_uil, median in ((2.0, 5.0), (4.0, 3.0)):
        place = np.array((1.0, log_uil - MIDDLE, median - MIDDLE))
        assert own.shift(log_uil, said(median)) == pytest.approx(float(place @ wanted), abs=1e-9)


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_known_app_follows_a_doubling(factor: float) -> None:
    own = Correction(free=False)
    learn_noise(own, 300)
    learn_noise(own, FOLLOWED, mean=math.log(factor), seed=1)
    assert own.shift(3.5, said(3.5)) == pytest.approx(math.log(factor), abs=0.15)


def test_newcomer_follows_a_second_change() -> None:
    own = Correction(free=True)
    learn_noise(own, 200, mean=1.0)
    assert learn_noise(own, FOLLOWED, mean=0.3, seed=1) == 1
    assert own.shift(3.5, said(3.5)) == pytest.approx(0.3, abs=0.15)


def test_known_app_without_change_is_hardly_moved() -> None:
    own = Correction(free=False)
    assert learn_noise(own, 2_000) == 0
    assert abs(own.shift(5.0, said(2.0))) < 0.1
    assert own.stretch == 1.0


def test_newcomer_learns_intercept_and_slopes() -> None:
    own, random = Correction(free=True), np.random.default_rng(2)
    for _ in range(200):
        log_uil, median = random.uniform(2, 5, 2)
        own.learn(log_uil, said(median), 0.5 + 0.4 * (log_uil - 3.5) - 0.3 * (median - 3.5))
    assert own.shift(4.5, said(4.5)) == pytest.approx(0.6, abs=0.05)


@pytest.mark.parametrize("share", [0.3, 2.0])
def test_newcomer_is_spread_as_its_misses_are(share: float) -> None:
    own = Correction(free=True)
    learn_noise(own, 300, noise=share * SPREAD)
    assert own.stretch == pytest.approx(share, rel=0.15)


def test_one_wild_outcome_alarms_nobody() -> None:
    own = Correction(free=False)
    learn_noise(own, 100)
    assert not own.learn(3.5, said(3.5), 9.0)
    assert abs(own.shift(3.5, said(3.5))) < 0.1


def test_apps_do_not_move_each_other() -> None:
    alone, beside = Corrections(), Corrections()
    for number in range(60):
        alone.learn(APP, 3.0, said(3.0), 0.1 * (number % 7))
    for number in range(60):
        beside.learn(OTHER, 4.0, said(4.0), -1.0)
        beside.learn(APP, 3.0, said(3.0), 0.1 * (number % 7))
    assert beside.shift(APP, 2.0, said(4.0)) == alone.shift(APP, 2.0, said(4.0))
    assert beside.stretch(APP) == alone.stretch(APP)


def test_app_without_outcomes_is_left_as_it_is() -> None:
    corrections = Corrections()
    assert corrections.shift(APP, 3.0, said(3.0)) == 0.0
    assert corrections.stretch(APP) == 1.0


def test_only_so_many_apps_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correction, "MAX_APPS", 3)
    corrections = Corrections()
    for app in range(5):
        for _ in range(9):
            corrections.learn(UUID(int=app), 3.0, said(3.0), 0.5)
    known = [corrections.shift(UUID(int=app), 3.0, said(3.0)) != 0.0 for app in range(5)]
    assert known == [False, False, True, True, True]
