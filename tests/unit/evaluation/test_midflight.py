"""Errors of the remaining length during generation."""

import numpy as np
import pytest

from gateway.evaluation.forecast import Forecast
from gateway.evaluation.midflight import midflight
from gateway.evaluation.scoring import POOLED

LENGTHS = np.array([40.0, 80.0])
NAMES = np.array(["a", "b"])
LIMITS = np.array([1000.0, 1000.0])


def test_exact_forecast_has_no_error() -> None:
    exact = Forecast.of(np.log(np.tile(LENGTHS[:, None], (1, 6))))
    for found in midflight(NAMES, LENGTHS, LIMITS, exact):
        assert (found.static_mae, found.conditional_mae) == pytest.approx((0, 0), abs=0.01)


def test_answer_beyond_its_median_has_remaining_tokens() -> None:
    median_20 = Forecast.of(np.log([[5.0, 10.0, 20.0, 40.0, 80.0, 120.0]]))
    _, _, half, _ = midflight(np.array(["a"]), np.array([100.0]), LIMITS[:1], median_20)
    assert half.share == 0.5
    assert half.static_mae == 49  # predicts 1 remaining token of 50
    assert half.conditional_mae < 40


def test_apps_come_first_and_then_all_answers() -> None:
    exact = Forecast.of(np.log(np.tile(LENGTHS[:, None], (1, 6))))
    assert [
        (each.app, each.share, each.rows) for each in midflight(NAMES, LENGTHS, LIMITS, exact)
    ] == [
        (app, share, rows)
        for share in (0.25, 0.5)
        for app, rows in (("a", 1), ("b", 1), (POOLED, 2))
    ]


def test_answer_without_a_token_by_then_is_left_out() -> None:
    exact = Forecast.of(np.log(np.full((1, 6), 2.0)))
    found = midflight(np.array(["a"]), np.array([2.0]), LIMITS[:1], exact)
    assert {each.share for each in found} == {0.5}
