"""What policies are told of lengths."""

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


def chance(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def lengths(count: int, seed: int = 5, spread: float = 0.9) -> Int32s:
    logs = np.log(130) + spread * np.random.default_rng(seed).standard_normal(count)
    return np.clip(np.exp(logs), 1, 4_000).astype(np.int32)


def some(count: int = 2_000, **columns: object) -> Workload:
    given = {
        "arrived_s": np.arange(count),
        "prompt_tokens": 10,
        "generation_tokens": lengths(count),
    }
    return Workload.of(**{**given, **columns})  # type: ignore[arg-type]


@pytest.mark.parametrize("tau", [0.2, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("count", [6_000, 40_000])
def test_noise_has_the_tau_that_was_asked(tau: float, count: int) -> None:
    tokens = lengths(count)
    found = noisy_quantiles(tokens, tau, chance())
    assert kendall_tau(tokens.astype(float), found[:, MEDIAN].astype(float)) == pytest.approx(
        tau, abs=0.01
    )


@pytest.mark.parametrize("tau", [0.3, 0.7])
@pytest.mark.parametrize("spread", [0.4, 0.9])
def test_noise_covers_what_it_promises(tau: float, spread: float) -> None:
    tokens = lengths(20_000, spread=spread)
    found = noisy_quantiles(tokens, tau, chance())
    for number, level in enumerate(LEVELS):
        assert (tokens <= found[:, number]).mean() == pytest.approx(level, abs=0.02)


def test_noise_covers_lengths_that_are_not_log_normal_too() -> None:
    random = chance(2)
    short_or_long = np.where(random.random(20_000) < 0.5, 20, 600) + random.integers(
        10, size=20_000
    )
    found = noisy_quantiles(short_or_long.astype(np.int32), 0.6, chance())
    assert (short_or_long <= found[:, P90]).mean() == pytest.approx(0.9, abs=0.02)


def test_sharper_noise_reserves_less() -> None:
    tokens = lengths(10_000)
    over = [
        float((noisy_quantiles(tokens, tau, chance())[:, P90]).sum()) for tau in (0.3, 0.6, 0.9)
    ]
    assert over == sorted(over, reverse=True)
    assert over[0] > 1.3 * over[-1] > 1.3 * tokens.sum()


def test_perfect_noise_knows_the_lengths() -> None:
    tokens = lengths(1_000)
    assert noisy_quantiles(tokens, 1.0, chance())[:, MEDIAN] == pytest.approx(tokens, rel=1e-3)


@pytest.mark.parametrize("tau", [0.0, 1.01, -0.5])
def test_impossible_tau_is_refused(tau: float) -> None:
    with pytest.raises(InvalidRequest, match="above 0 and at most 1"):
        noisy_quantiles(lengths(100), tau, chance())


def test_equal_lengths_are_foretold() -> None:
    assert noisy_quantiles(np.full(50, 30, np.int32), 0.7, chance()) == pytest.approx(30, rel=1e-3)


def test_oracle_says_the_length_at_every_level() -> None:
    found = with_predictions(some(), "oracle", chance())
    assert (found.quantiles == found.generation_tokens[:, None]).all()


def test_shuffled_predictions_are_the_same_ones_and_tell_nothing() -> None:
    told = with_predictions(some(max_tokens=10_000), "noise", chance())
    found = with_predictions(told, "shuffled", chance(2))
    assert sorted(found.quantiles[:, MEDIAN]) == sorted(told.quantiles[:, MEDIAN])
    truth = found.generation_tokens.astype(float)
    assert abs(kendall_tau(truth, found.quantiles[:, MEDIAN].astype(float))) < 0.05


def test_where_nothing_is_recorded_noise_is_shuffled() -> None:
    assert with_predictions(some(), "shuffled", chance()).has_predictions


def test_recorded_predictions_are_passed_on() -> None:
    told = some(2, quantiles=[[1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6, 7]], max_tokens=6_000)
    assert (with_predictions(told, "recorded", chance()).quantiles == told.quantiles).all()


def test_nothing_recorded_is_said() -> None:
    with pytest.raises(InvalidRequest, match="no predictions are recorded"):
        with_predictions(some(), "recorded", chance())


@pytest.mark.parametrize("name", ["noise", "oracle", "shuffled"])
def test_quantiles_rise_within_what_a_request_may_take(name: PredictorName) -> None:
    tokens = lengths(2_000)
    found = with_predictions(some(max_tokens=tokens + 5), name, chance())
    assert (np.diff(found.quantiles, axis=1) >= 0).all()
    assert found.quantiles.min() >= 1
    assert (found.quantiles <= found.max_tokens[:, None]).all()
