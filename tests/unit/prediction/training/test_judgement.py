import numpy as np
import pytest

from gateway.prediction.training.judgement import Comparison, Judgement
from gateway.prediction.training.scorecard import evaluate, kendall_tau, tau_difference_error

SPREAD = np.linspace(-1.0, 1.0, 6)


def quantiles(lengths: np.ndarray, error: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, error, len(lengths))
    return np.exp(np.log(lengths)[:, None] + noise[:, None] + error * SPREAD)


@pytest.fixture
def lengths() -> np.ndarray:
    return np.exp(np.random.default_rng(5).normal(4, 1, 200))


def test_better_quantiles_are_accepted(lengths: np.ndarray) -> None:
    new, other = quantiles(lengths, 0.3, 1), quantiles(lengths, 0.6, 2)
    found = Judgement(evaluate(lengths, new), [Comparison.of("line", lengths, new, other)])
    assert found.accepted
    assert found.metrics()["failures"] == []


def test_a_failure_says_against_what_and_by_how_much(lengths: np.ndarray) -> None:
    new, other = quantiles(lengths, 0.9, 1), quantiles(lengths, 0.3, 2)
    found = Judgement(evaluate(lengths, new), [Comparison.of("served", lengths, new, other)])
    assert [(each.against, each.measure) for each in found.failures] == [
        ("served", "pinball"),
        ("served", "tau"),
    ]
    pinball, tau = found.metrics()["failures"]
    assert pinball["new"] > pinball["other"] > 0 == pinball["allowance"]
    assert tau["new"] < tau["other"] - tau["allowance"]


def test_the_same_predictions_are_no_worse(lengths: np.ndarray) -> None:
    new = quantiles(lengths, 0.3, 1)
    assert Comparison.of("active", lengths, new, new.copy()).failures() == []


def test_a_slightly_higher_loss_is_refused(lengths: np.ndarray) -> None:
    new = quantiles(lengths, 0.3, 1)
    wider = np.exp(np.log(new) + 0.6 * SPREAD)  # in the same order
    (failed,) = Comparison.of("line", lengths, wider, new).failures()
    assert failed.measure == "pinball"
    assert failed.new - failed.other < 0.1


def test_a_lower_tau_within_its_error_is_accepted(lengths: np.ndarray) -> None:
    other = quantiles(lengths, 0.4, 2)
    swapped = other.copy()
    order = np.argsort(lengths)
    swapped[order[:2]] = swapped[order[1::-1]]
    comparison = Comparison.of("line", lengths, swapped, other)
    assert comparison.new.tau != comparison.other.tau
    assert abs(comparison.new.tau - comparison.other.tau) < comparison.tau_error
    assert not [each for each in comparison.failures() if each.measure == "tau"]


def test_only_the_rows_given_are_compared(lengths: np.ndarray) -> None:
    new, other = quantiles(lengths, 0.3, 1), quantiles(lengths, 0.6, 2)
    other[100:] = new[100:] * 1.0
    found = Comparison.of("served", lengths, new, other, np.arange(200) >= 100)
    assert found.new == found.other
    assert found.new.rows == 100


def test_the_error_of_a_tau_difference_is_that_of_repeated_samples() -> None:
    random = np.random.default_rng(3)
    differences, errors = [], []
    for _ in range(300):
        length = random.normal(size=120)
        ours, theirs = (length + random.normal(0, sd, 120) for sd in (1.0, 1.5))
        differences.append(kendall_tau(length, ours) - kendall_tau(length, theirs))
        errors.append(tau_difference_error(length, ours, theirs))
    assert np.mean(errors) == pytest.approx(np.std(differences), rel=0.15)
