"""Bands that cover as they should."""

import numpy as np
import pytest

from gateway.scheduling.waits.bands import WaitCalibration, expectation


@pytest.mark.parametrize("bias", [0.5, 1.0, 3.0])
def test_four_of_five_waits_are_in_their_bands_whatever_the_bias(bias: float) -> None:
    rng, calibration = np.random.default_rng(7), WaitCalibration()
    inside = []
    for number in range(1_500):
        expected = expectation(float(rng.uniform(0.5, 20)), 0.5)
        actual = bias * expected.wait_s * float(np.exp(rng.normal(0, 0.4)))
        band = calibration.band(expected)
        if number >= 300:
            inside.append(band.p10 <= actual <= band.p90)
        calibration.learn(expected, actual)
    assert np.mean(inside) == pytest.approx(0.8, abs=0.05)


def test_bands_cover_while_waits_grow() -> None:
    rng, calibration = np.random.default_rng(3), WaitCalibration()
    inside = []
    for number in range(1_500):
        expected = expectation(5.0, 0.5)
        actual = 5.0 * float(np.exp(rng.normal(number / 1_000, 0.3)))
        band = calibration.band(expected)
        inside.append(band.p10 <= actual <= band.p90)
        calibration.learn(expected, actual)
    assert np.mean(inside[300:]) == pytest.approx(0.8, abs=0.06)


def test_the_quantiles_rise_and_are_never_negative() -> None:
    calibration = WaitCalibration()
    for actual in (0.0, 0.1, 30.0, 2.0):
        band = calibration.band(expectation(1.0, 0.2))
        assert 0 <= band.p10 <= band.p50 <= band.p90
        calibration.learn(expectation(1.0, 0.2), actual)
