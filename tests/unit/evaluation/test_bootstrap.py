"""The paired comparison."""

import numpy as np
import pytest

from gateway.evaluation.bootstrap import compare, compare_apps
from gateway.evaluation.scoring import POOLED

ERRORS = np.random.default_rng(3).normal(size=400)


def test_equal_errors_have_zero_difference() -> None:
    found = compare(ERRORS, -ERRORS)
    assert (found.difference, found.low, found.high) == (0, 0, 0)


def test_clearly_smaller_errors_are_significantly_ahead() -> None:
    found = compare(ERRORS, 1.3 * ERRORS)
    assert found.low < found.difference < found.high < 0
    assert found.difference == pytest.approx(found.ours - found.theirs)


def test_errors_of_equal_size_rarely_differ_significantly() -> None:
    random = np.random.default_rng(4)
    pairs = [compare(random.normal(size=80), random.normal(size=80)) for _ in range(40)]
    assert sum(pair.low > 0 or pair.high < 0 for pair in pairs) <= 6  # 5 % of 40 are to be expected


def test_swapped_sides_swap_the_sign() -> None:
    other = np.random.default_rng(5).normal(size=400)
    one, two = compare(ERRORS, other), compare(other, ERRORS)
    assert (one.low, one.difference, one.high) == pytest.approx(
        (-two.high, -two.difference, -two.low)
    )


def test_pairing_makes_the_interval_narrow() -> None:
    paired = compare(ERRORS, 1.1 * ERRORS)
    unpaired = compare(ERRORS, np.random.default_rng(6).permutation(1.1 * ERRORS))
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


def test_each_app_is_compared_on_its_own_requests() -> None:
    names = np.array(["a"] * 200 + ["b"] * 200)
    found = compare_apps(names, ERRORS, np.concatenate((2 * ERRORS[:200], ERRORS[200:])))
    assert list(found) == ["a", "b", POOLED]
    assert found["a"].high < 0 == found["b"].difference
