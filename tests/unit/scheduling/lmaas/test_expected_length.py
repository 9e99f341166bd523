"""Mean and CVaR₉₀ against numerical integration of the quantile function."""

from collections.abc import Callable
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.quantiles import LEVELS, P90
from gateway.scheduling.lmaas.cost import (
    CVAR_WEIGHT,
    MEAN_BELOW_P10,
    expected_length,
    risk_adjusted_length,
)
from gateway.scheduling.requests import Quantiles, QueuedRequest

CELLS = 40_000
quantiles = st.lists(st.floats(1, 2_000), min_size=6, max_size=6).map(
    lambda drawn: tuple(sorted(drawn))
)
limits = st.integers(2_000, 20_000)


def lengths_at(levels: np.ndarray, drawn: Quantiles, max_tokens: int) -> np.ndarray:
    """The quantile function: the lengths at these levels."""
    knots = [(2 * MEAN_BELOW_P10 - 1) * drawn[0], *drawn]
    body = np.interp(levels, (0.0, *LEVELS), knots)
    rate = log(2) / max(log(drawn[-1] / drawn[P90]), log(1.05))  # exponent of the Pareto tail
    beyond = np.maximum(levels, LEVELS[-1])
    tail = drawn[-1] * (0.05 / (1 - beyond)) ** (1 / rate)
    return np.minimum(np.where(levels > LEVELS[-1], tail, body), max_tokens)


def mean_between(low: float, high: float, drawn: Quantiles, max_tokens: int) -> float:
    levels = low + (high - low) * (np.arange(CELLS) + 0.5) / CELLS
    return float(lengths_at(levels, drawn, max_tokens).mean())


@given(quantiles, limits)
def test_mean_and_cvar_equal_numerical_integration(drawn: Quantiles, max_tokens: int) -> None:
    found = expected_length(drawn, max_tokens)
    parts = [(0.0, 0.9), (0.9, 0.95), (0.95, 1.0)]
    body, high, tail = (mean_between(*part, drawn, max_tokens) for part in parts)
    assert found.cvar_90 == pytest.approx((high + tail) / 2, rel=2e-3)
    assert found.mean == pytest.approx(max(0.9 * body + 0.05 * (high + tail), 1.0), rel=2e-3)


@given(quantiles, limits)
def test_cvar_lies_between_the_p90_and_the_limit(drawn: Quantiles, max_tokens: int) -> None:
    mean, worst = expected_length(drawn, max_tokens)
    assert drawn[P90] * (1 - 1e-9) <= worst <= max_tokens * (1 + 1e-9)
    assert 1.0 <= mean <= worst * (1 + 1e-9)


@given(quantiles, st.sampled_from([0, 1, 2, 3, 5]), st.floats(0, 1), limits)
def test_expected_length_grows_with_each_quantile(
    drawn: Quantiles, place: int, share: float, max_tokens: int
) -> None:
    """Except the 0.9 quantile: relative to it, the 0.95 quantile sets the weight of the tail."""
    above = [*drawn, float(max_tokens)][place + 1]
    raised = list(drawn)
    raised[place] += share * (above - raised[place])
    before, after = expected_length(drawn, max_tokens), expected_length(tuple(raised), max_tokens)
    assert after.mean >= before.mean * (1 - 1e-9)
    assert after.cvar_90 >= before.cvar_90 * (1 - 1e-9)


@given(quantiles, st.floats(1, 3), st.integers(6_000, 20_000))
def test_expected_length_grows_with_all_quantiles_together(
    drawn: Quantiles, factor: float, max_tokens: int
) -> None:
    longer = tuple(factor * tokens for tokens in drawn)
    before, after = expected_length(drawn, max_tokens), expected_length(longer, max_tokens)
    assert after.mean >= before.mean * (1 - 1e-9)
    assert after.cvar_90 >= before.cvar_90 * (1 - 1e-9)


@given(quantiles, limits, st.integers(0, 5_000))
def test_expected_length_grows_with_the_limit(drawn: Quantiles, max_tokens: int, more: int) -> None:
    before, after = expected_length(drawn, max_tokens), expected_length(drawn, max_tokens + more)
    assert after.mean >= before.mean * (1 - 1e-9)
    assert after.cvar_90 >= before.cvar_90 * (1 - 1e-9)


def test_certain_length_has_the_minimum_tail() -> None:
    mean, worst = expected_length((100.0,) * 6, 10_000)
    assert mean == pytest.approx(98, abs=1)
    assert 100 <= worst <= 105


def test_length_is_cut_at_max_tokens() -> None:
    assert expected_length((400.0,) * 6, 400).cvar_90 == pytest.approx(400)


def test_pareto_tail_of_power_one_is_a_logarithm() -> None:
    near = [
        expected_length((10.0, 20.0, 40.0, 60.0, 100.0, top), 5_000)
        for top in (199.99, 200.0, 200.01)
    ]
    assert near[0].mean < near[1].mean < near[2].mean
    assert near[1].mean == pytest.approx(near[0].mean, rel=1e-3)


def test_minimum_length_is_one_token() -> None:
    assert expected_length((1.0,) * 6, 1) == (1.0, 1.0)


def test_heavier_tail_raises_the_risk_adjusted_length(
    a_request: Callable[..., QueuedRequest],
) -> None:
    even = a_request(quantiles=(50.0, 80.0, 100.0, 120.0, 150.0, 160.0), max_tokens=4_000)
    heavy = a_request(quantiles=(50.0, 80.0, 100.0, 120.0, 150.0, 300.0), max_tokens=4_000)
    assert risk_adjusted_length(even) < risk_adjusted_length(heavy)
    mean, worst = expected_length(even.quantiles, even.max_tokens)
    assert risk_adjusted_length(even) == mean + CVAR_WEIGHT * worst
    assert risk_adjusted_length(even, beta=0.0) == mean
