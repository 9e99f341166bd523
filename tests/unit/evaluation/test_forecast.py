"""Quantiles around point forecasts."""

import numpy as np
import pytest

from gateway.evaluation.forecast import MIN_APP_RESIDUALS, Forecast, residual_quantiles

RANDOM = np.random.default_rng(7)


def test_an_apps_own_residuals_make_its_quantiles() -> None:
    train = np.array(["calm"] * 100 + ["wild"] * 100)
    residuals = np.concatenate((0.01 * RANDOM.normal(size=100), RANDOM.normal(size=100)))
    found = residual_quantiles(np.full(2, 4.0), np.array(["calm", "wild"]), residuals, train)
    assert np.ptp(found[0]) < 0.1
    assert np.ptp(found[1]) > 1


@pytest.mark.parametrize("own", [0, MIN_APP_RESIDUALS - 1])
def test_an_app_with_few_residuals_takes_those_of_all(own: int) -> None:
    train = np.array(["new"] * own + ["old"] * 400)
    residuals = RANDOM.normal(size=len(train))
    new, old = residual_quantiles(np.full(2, 4.0), np.array(["new", "unknown"]), residuals, train)
    assert (new == old).all()


def test_no_quantile_lies_below_one_token() -> None:
    residuals = RANDOM.normal(size=100)
    found = residual_quantiles(np.zeros(1), np.array(["a"]), residuals, np.array(["a"] * 100))
    assert (found >= 0).all()
    assert (np.diff(found[0]) >= 0).all()


def test_exact_forecast_has_its_length_as_median_and_mean() -> None:
    exact = Forecast.of(np.log(np.full((1, 6), 20.0)))
    assert (exact.median[0], exact.p90[0], exact.mean[0]) == pytest.approx((20, 20, 20))
    assert exact.location[0] == pytest.approx(np.log(21))
