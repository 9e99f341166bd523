"""Bands that are calibrated by the ends of earlier jobs."""

import math
import random

import pytest

from gateway.jobs.batches.progress.calibration import (
    SHARES,
    Calibration,
    EndedJob,
    NotedForecast,
    calibrate,
    share_to_note,
)
from gateway.jobs.batches.progress.completion import Forecast, Sample, Scale, expected_completion

JOBS = 64
SAMPLES: list[Sample] = [(0.0, 0.0), (10.0, 100.0), (20.0, 200.0)]


def ended_job(*errors: float) -> EndedJob:
    """A job whose forecasts at the shares were off by these many standard deviations."""
    forecasts = [NotedForecast(share, 0.0, 100.0, 0.3) for share in SHARES]
    return EndedJob(
        [
            NotedForecast(noted.share, 1000.0 - 100.0 * math.exp(0.3 * error), 100.0, 0.3)
            for noted, error in zip(forecasts, errors, strict=True)
        ],
        1000.0,
    )


@pytest.mark.parametrize(
    ("mean", "spread"), [(0.0, 1.0), (1.5, 0.4), (-1.0, 3.0)], ids=["right", "late", "narrow"]
)
def test_band_covers_four_of_five_whatever_the_forecast_misses(mean: float, spread: float) -> None:
    rng = random.Random(3)
    inside = total = 0
    for _ in range(50):
        jobs = [ended_job(*(rng.gauss(mean, spread) for _ in SHARES)) for _ in range(JOBS)]
        calibration = calibrate(jobs)
        for scale in calibration.scales:
            drawn = [rng.gauss(mean, spread) for _ in range(20)]
            inside += sum(scale.p10 <= error <= scale.p90 for error in drawn)
            total += len(drawn)
    assert 0.75 <= inside / total <= 0.85


def test_without_earlier_jobs_the_band_is_that_of_the_prior() -> None:
    for scale in calibrate([]).scales:
        assert -2.0 < scale.p10 < -1.28
        assert scale.p90 == pytest.approx(-scale.p10)


def test_error_of_a_job_is_in_standard_deviations() -> None:
    noted = NotedForecast.of(0.5, 40.0, Forecast(10.0, 0.2))
    assert noted.z(50.0) == pytest.approx(0.0)
    assert noted.z(40.0 + 10.0 * math.exp(0.2)) == pytest.approx(1.0)
    assert noted.z(40.0) < -20  # it ended at once


def test_scale_is_interpolated_between_the_shares() -> None:
    scales = [Scale(-float(place), float(place)) for place in range(1, len(SHARES) + 1)]
    calibration = Calibration(scales)
    assert calibration.scale_at(0.0) == scales[0]
    assert calibration.scale_at(1.0) == scales[-1]
    assert calibration.scale_at(0.4).p90 == pytest.approx(2.5)
    assert calibration.scale_at(0.5).p10 == pytest.approx(-3.0)


def test_calibrated_band_is_shifted_and_scaled() -> None:
    band = expected_completion(SAMPLES, 100.0, 20.0, ahead=0.0, pace=None, scale=Scale(1.0, 2.0))
    assert band is not None
    first, last = math.log((band.p10 - 20.0) / 10.0), math.log((band.p90 - 20.0) / 10.0)
    assert first > 0
    assert last == pytest.approx(2 * first)


def test_forecast_is_noted_once_at_each_share() -> None:
    noted = [NotedForecast(0.3, 0.0, 1.0, 0.1)]
    assert share_to_note(0.05, []) is None
    assert share_to_note(0.12, []) == 0.1
    assert share_to_note(0.45, noted) is None
    assert share_to_note(0.75, noted) == 0.7  # 0.5 was passed unseen
