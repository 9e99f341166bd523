import math
from collections.abc import Callable
from random import Random
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from gateway.history.record import Record
from gateway.prediction.serving.drift import MIN_OUTCOMES, DriftMonitor, RollingQuality

lengths = st.integers(1, 12)
outcomes = st.lists(st.tuples(lengths, lengths, st.booleans()), min_size=10, max_size=60)

VERSION = UUID(int=7)


@given(outcomes)
def test_rolling_tau_and_coverage_are_those_of_the_last_outcomes(
    given_outcomes: list[tuple[int, int, bool]],
) -> None:
    rolling = RollingQuality(10)
    for median, length, within in given_outcomes:
        rolling.add(median, length, covered=within)
    medians, actual, covered = zip(*given_outcomes[-10:], strict=True)
    quality = rolling.quality()
    assert quality is not None
    expected = kendalltau(medians, actual).statistic if _vary(medians, actual) else 0.0
    assert quality.tau == pytest.approx(expected)
    assert quality.coverage == pytest.approx(sum(covered) / 10)


def _vary(*series: tuple[int, ...]) -> bool:
    return all(len(set(each)) > 1 for each in series)


def served(a_record: Callable[..., Record], length: int, **given: object) -> Record:
    """The record of a request whose predicted P90 is 1.1 times its length."""
    values: dict[str, object] = {
        "predictor_id": VERSION,
        "generation_tokens": length,
        "max_tokens": 1_000,
        "quantiles": [length * by for by in (0.8, 0.9, 1.0, 1.05, 1.1, 1.2)],
    }
    return a_record(**{**values, **given})


def test_quality_needs_enough_outcomes(a_record: Callable[..., Record]) -> None:
    monitor = DriftMonitor()
    for length in range(1, MIN_OUTCOMES):
        monitor.observe(served(a_record, length))
    assert monitor.quality() is None
    assert monitor.trustworthy(0.9)
    monitor.observe(served(a_record, MIN_OUTCOMES))
    quality = monitor.quality()
    assert quality is not None
    assert (quality.outcomes, quality.coverage, quality.tau) == (
        MIN_OUTCOMES,
        1.0,
        pytest.approx(1.0),
    )


def test_p90_at_max_tokens_is_expected_to_cover_all(a_record: Callable[..., Record]) -> None:
    """Half of the answers are cut off, and P90 is at the limit for all of them."""
    monitor = DriftMonitor()
    for number in range(MIN_OUTCOMES):
        at_limit = {"quantiles": [10.0, 20.0, 50.0, 100.0, 100.0, 100.0], "max_tokens": 100}
        length = 100 if number % 2 else 30
        monitor.observe(served(a_record, length, censored=bool(number % 2), **at_limit))
    quality = monitor.quality()
    assert quality is not None
    assert (quality.coverage, quality.expected_coverage) == (1.0, 1.0)


def test_shuffled_lengths_make_predictions_untrustworthy(a_record: Callable[..., Record]) -> None:
    random, monitor = Random(1), DriftMonitor(300)
    for _ in range(300):
        predicted, actual = random.randint(1, 500), random.randint(1, 500)
        monitor.observe(served(a_record, predicted, generation_tokens=actual))
    quality = monitor.quality()
    assert quality is not None
    assert math.isclose(quality.tau, 0, abs_tol=0.1)
    assert not monitor.trustworthy(0.1)
    monitor.check()


def test_apps_are_measured_separately(a_record: Callable[..., Record]) -> None:
    monitor, good, bad = DriftMonitor(), UUID(int=1), UUID(int=2)
    for length in range(1, 151):
        monitor.observe(served(a_record, length, app_id=good))
        monitor.observe(served(a_record, length, app_id=bad, generation_tokens=1_000 - length))
    known, unknown = monitor.quality(good), monitor.quality(bad)
    assert known is not None
    assert unknown is not None
    assert known.tau == pytest.approx(1)
    assert unknown.tau == pytest.approx(-1)
    assert unknown.coverage == 0
    assert monitor.quality(UUID(int=3)) is None


def test_another_version_restarts_the_measurement(a_record: Callable[..., Record]) -> None:
    monitor = DriftMonitor()
    for length in range(1, 200):
        monitor.observe(served(a_record, length))
    monitor.use_window(500)
    assert monitor.quality() is not None
    monitor.observe(served(a_record, 5, predictor_id=UUID(int=8)))
    assert (monitor.quality(), monitor.version) == (None, UUID(int=8))


def test_cancelled_request_and_request_without_version_are_not_evaluated(
    a_record: Callable[..., Record],
) -> None:
    monitor = DriftMonitor(50)
    for length in range(1, 51):
        monitor.observe(served(a_record, length))
    for ignored in (served(a_record, 3, censored=True), served(a_record, 3, predictor_id=None)):
        monitor.observe(ignored)
    monitor.observe(served(a_record, 1_000, censored=True, quantiles=[1.0] * 6))
    quality = monitor.quality()
    assert quality is not None
    assert quality.coverage == pytest.approx(0.98)
