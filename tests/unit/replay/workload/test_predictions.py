"""The predicted lengths that policies get."""

import numpy as np
import pytest

from gateway.errors import InvalidRequest
from gateway.quantiles import LEVELS, MEDIAN, P90
from gateway.replay.workload.predictions import (
    PredictorName,
    kendall_tau,
    noisy_quantiles,
    with_predictions,
)
from gateway.replay.workload.workload import Int32s, Workload


def generator(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def lengths(count: int, seed: int = 5, spread: float = 0.9) -> Int32s:
    logs = np.log(130) + spread * np.random.default_rng(seed).standard_normal(count)
    return np.clip(np.exp(logs), 1, 4_000).astype(np.int32)


def a_workload(count: int = 2_000, **columns: object) -> Workload:
    given = {
        "arrived_s": np.arange(count),
        "prompt_tokens": 10,
        "generation_tokens": lengths(count),
    }
    return Workload.of(**{**given, **columns})  # type: ignore[arg-type]


@pytest.mark.parametrize("tau", [0.2, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("count", [6_000, 40_000])
def test_noise_has_the_given_tau(tau: float, count: int) -> None:
    tokens = lengths(count)
    found = noisy_quantiles(tokens, tau, generator())
    assert kendall_tau(tokens.astype(float), found[:, MEDIAN].astype(float)) == pytest.approx(
        tau, abs=0.01
    )


@pytest.mark.parametrize("tau", [0.3, 0.7])
@pytest.mark.parametrize("spread", [0.4, 0.9])
def test_noisy_quantiles_cover_their_levels(tau: float, spread: float) -> None:
    tokens = lengths(20_000, spread=spread)
    found = noisy_quantiles(tokens, tau, generator())
    for number, level in enumerate(LEVELS):
        assert (tokens <= found[:, number]).mean() == pytest.approx(level, abs=0.02)


def test_noisy_quantiles_cover_lengths_that_are_not_log_normal() -> None:
    random = generator(2)
    short_or_long = np.where(random.random(20_000) < 0.5, 20, 600) + random.integers(
        10, size=20_000
    )
    found = noisy_quantiles(short_or_long.astype(np.int32), 0.6, generator())
    assert (short_or_long <= found[:, P90]).mean() == pytest.approx(0.9, abs=0.02)


def test_sharper_noise_reserves_less() -> None:
    tokens = lengths(10_000)
    over = [
        float((noisy_quantiles(tokens, tau, generator())[:, P90]).sum()) for tau in (0.3, 0.6, 0.9)
    ]
    assert over == sorted(over, reverse=True)
    assert over[0] > 1.3 * over[-1] > 1.3 * tokens.sum()


def test_perfect_noise_knows_the_lengths() -> None:
    tokens = lengths(1_000)
    assert noisy_quantiles(tokens, 1.0, generator())[:, MEDIAN] == pytest.approx(tokens, rel=1e-3)


@pytest.mark.parametrize("tau", [0.0, 1.01, -0.5])
def test_impossible_tau_is_refused(tau: float) -> None:
    with pytest.raises(InvalidRequest, match="above 0 and at most 1"):
        noisy_quantiles(lengths(100), tau, generator())


def test_equal_lengths_are_predicted_exactly() -> None:
    assert noisy_quantiles(np.full(50, 30, np.int32), 0.7, generator()) == pytest.approx(
        30, rel=1e-3
    )


def test_oracle_has_the_length_at_every_level() -> None:
    found = with_predictions(a_workload(), "oracle", generator())
    assert (found.quantiles == found.generation_tokens[:, None]).all()


def test_shuffled_predictions_are_permuted_and_uncorrelated() -> None:
    source = with_predictions(a_workload(max_tokens=10_000), "noise", generator())
    found = with_predictions(source, "shuffled", generator(2))
    assert sorted(found.quantiles[:, MEDIAN]) == sorted(source.quantiles[:, MEDIAN])
    truth = found.generation_tokens.astype(float)
    assert abs(kendall_tau(truth, found.quantiles[:, MEDIAN].astype(float))) < 0.05


def test_noise_is_shuffled_if_nothing_is_recorded() -> None:
    assert with_predictions(a_workload(), "shuffled", generator()).has_predictions


def test_recorded_predictions_are_passed_on() -> None:
    source = a_workload(2, quantiles=[[1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6, 7]], max_tokens=6_000)
    assert (with_predictions(source, "recorded", generator()).quantiles == source.quantiles).all()


def test_missing_recorded_predictions_are_an_error() -> None:
    with pytest.raises(InvalidRequest, match="no predictions are recorded"):
        with_predictions(a_workload(), "recorded", generator())


@pytest.mark.parametrize("name", ["noise", "oracle", "shuffled"])
def test_quantiles_increase_within_max_tokens(name: PredictorName) -> None:
    tokens = lengths(2_000)
    found = with_predictions(a_workload(max_tokens=tokens + 5), name, generator())
    assert (np.diff(found.quantiles, axis=1) >= 0).all()
    assert found.quantiles.min() >= 1
    assert (found.quantiles <= found.max_tokens[:, None]).all()
