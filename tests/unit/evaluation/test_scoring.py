"""The measures against straightforward loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.evaluation.forecast import Forecast
from gateway.evaluation.scoring import POOLED, held_over_used, score, score_apps, wilson
from gateway.quantiles import LEVELS

ROWS = st.lists(
    st.tuples(
        st.integers(1, 900),
        st.lists(st.floats(0, 7), min_size=6, max_size=6).map(sorted),
        st.floats(0, 7),
        st.floats(1, 900),
    ),
    min_size=1,
    max_size=12,
)


@given(ROWS)
def test_measures_equal_those_of_loops(rows: list[tuple[int, list[float], float, float]]) -> None:
    found = score(
        np.array([row[0] for row in rows], float),
        Forecast(
            log_quantiles=np.array([row[1] for row in rows]),
            location=np.array([row[2] for row in rows]),
            mean=np.array([row[3] for row in rows]),
        ),
    )
    n = len(rows)
    assert found.mae == pytest.approx(sum(abs(y - math.exp(q[2])) for y, q, _, _ in rows) / n)
    squares = sum((y - mean) ** 2 for y, _, _, mean in rows)
    assert found.token_rmse == pytest.approx((squares / n) ** 0.5)
    log_squares = sum((math.log(1 + y) - location) ** 2 for y, _, location, _ in rows)
    assert found.log_rmse_mean == pytest.approx((log_squares / n) ** 0.5)
    for place, level in enumerate(LEVELS):
        short = [math.log(y) - q[place] for y, q, _, _ in rows]
        loss = sum(level * s if s > 0 else (level - 1) * s for s in short) / n
        assert found.pinball_levels[place] == pytest.approx(loss, abs=1e-12)
    assert found.pinball == pytest.approx(np.mean(found.pinball_levels))
    ratios = [math.exp(q[4]) / y for y, q, _, _ in rows]
    assert found.over_mean == pytest.approx(np.mean(ratios))
    assert found.over_median == pytest.approx(np.median(ratios))
    total = sum(math.exp(q[4]) for _, q, _, _ in rows) / sum(y for y, _, _, _ in rows)
    assert found.over_total == pytest.approx(total)
    assert found.coverage_low <= found.coverage <= found.coverage_high


def test_length_at_the_quantile_is_covered() -> None:
    lengths = np.arange(1.0, 200.0)
    exact = Forecast.of(np.log(np.tile(lengths[:, None], (1, 6))))
    assert score(lengths, exact).coverage == 1.0
    assert score(lengths + 1, exact).coverage == 0.0


def test_pooled_is_not_the_mean_of_the_apps() -> None:
    names = np.array(["a", "a", "a", "b"])
    tokens = np.array([2.0, 2.0, 2.0, 8.0])
    exact = Forecast.of(np.log(np.full((4, 6), 2.0)))
    cards = score_apps(names, tokens, exact)
    assert list(cards) == ["a", "b", POOLED]
    assert (cards["a"].mae, cards["b"].mae, cards[POOLED].mae) == pytest.approx((0, 6, 1.5))


def test_interval_is_wilsons() -> None:
    assert wilson(9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)  # textbook value


@given(st.integers(1, 500), st.data())
def test_interval_is_symmetric_and_within_0_and_1(n: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, n))
    low, high = wilson(hits, n)
    assert 0 <= low <= hits / n <= high <= 1
    assert wilson(n - hits, n) == pytest.approx((1 - high, 1 - low))


def test_held_over_used_is_the_same_for_quantiles_in_proportion() -> None:
    random = np.random.default_rng(2)
    held = random.uniform(10, 100, 500)
    tokens = held * random.lognormal(0, 0.5, 500)
    found = held_over_used(tokens, held)
    assert held_over_used(tokens, 3 * held) == pytest.approx(found)
    scaled = found * tokens.sum() / held.sum() * held
    assert (tokens <= scaled * (1 + 1e-9)).mean() == pytest.approx(0.9, abs=1 / 500)
    assert held_over_used(tokens, np.full(500, 7.0)) > found
