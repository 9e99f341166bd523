from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gateway.prediction.censoring import kaplan_meier, weighted_quantiles
from gateway.quantiles import LEVELS

CENSORED_SAMPLES = st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=12)


def redistributed(samples: list[tuple[int, bool]]) -> list[Fraction]:
    """Efron's redistribution to the right: each censored mass is shared by all above it."""
    mass = [Fraction(1, len(samples))] * len(samples)
    for place, (_, censored) in enumerate(samples[:-1]):
        if censored:
            above = len(samples) - place - 1
            mass[place + 1 :] = [each + mass[place] / above for each in mass[place + 1 :]]
            mass[place] = Fraction(0)
    return mass


@given(CENSORED_SAMPLES)
def test_weights_are_those_of_redistribution_to_the_right(samples: list[tuple[int, bool]]) -> None:
    values, censored = zip(*samples, strict=True)
    ordered, weights = kaplan_meier(np.array(values, float), np.array(censored))
    by_hand = redistributed(sorted(samples))
    assert ordered.tolist() == [float(value) for value, _ in sorted(samples)]
    np.testing.assert_allclose(weights, [float(each) for each in by_hand], atol=1e-12)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=50))
def test_without_censoring_quantiles_are_the_empirical_ones(values: list[float]) -> None:
    ordered, weights = kaplan_meier(np.array(values), np.zeros(len(values), bool))
    found = weighted_quantiles(ordered, weights, np.array(LEVELS))
    exact = [
        sorted(values)[-(-Fraction(str(level)) * len(values) // 1) - 1] for level in LEVELS
    ]  # the ⌈n·level⌉-th smallest
    assert found.tolist() == exact


def test_no_samples_have_no_weights() -> None:
    ordered, weights = kaplan_meier(np.array([]), np.array([], dtype=bool))
    assert len(ordered) == len(weights) == 0
