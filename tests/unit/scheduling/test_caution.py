"""What is kept free follows what was preempted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.caution import LEAST, LOWER, MOST, RAISE, TOO_MANY, WINDOW, Caution

outcomes = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 5)), max_size=60)
MANY = int(WINDOW * TOO_MANY) + 1


def test_preemptions_raise_it_at_once() -> None:
    caution = Caution(3.0)
    caution.observed(WINDOW, MANY)
    assert caution.z == 3.0 + RAISE


def test_calm_lowers_it_more_slowly_than_preemptions_raise_it() -> None:
    caution = Caution(3.0)
    caution.observed(WINDOW, 0)
    assert 3.0 - RAISE < caution.z < 3.0


def test_few_preemptions_change_nothing() -> None:
    caution = Caution(3.0)
    caution.observed(10 * WINDOW, int(5 * WINDOW * TOO_MANY))
    assert caution.z == 3.0


def test_single_outcomes_add_up() -> None:
    caution = Caution(3.0)
    for ended in range(WINDOW):
        caution.observed(1, int(ended < MANY))
    assert caution.z == 3.0 + RAISE
    caution.observed(WINDOW - 1, 0)
    assert caution.z == 3.0 + RAISE


@given(st.floats(0.0, 2 * MOST), outcomes)
def test_it_stays_within_its_bounds_or_where_it_was_told_to_be(
    z: float, drawn: list[tuple[int, int]]
) -> None:
    caution = Caution(z)
    for outcome in drawn:
        before = caution.z
        caution.observed(*outcome)
        assert min(z, LEAST) <= caution.z <= max(z, MOST)
        assert before * LOWER - 1e-9 <= caution.z <= before + RAISE


@pytest.mark.parametrize(("outcome", "bound"), [((WINDOW, WINDOW), MOST), ((WINDOW, 0), LEAST)])
def test_bounds_are_reached_and_kept(outcome: tuple[int, int], bound: float) -> None:
    caution = Caution(3.0)
    for _ in range(100):
        caution.observed(*outcome)
    assert caution.z == bound


def test_calm_raises_and_preemptions_lower_nothing_that_was_told() -> None:
    daring, wary = Caution(LEAST / 2), Caution(2 * MOST)
    daring.observed(WINDOW, 0)
    wary.observed(WINDOW, WINDOW)
    assert (daring.z, wary.z) == (LEAST / 2, 2 * MOST)


@given(outcomes)
def test_it_is_tuned_window_by_window(drawn: list[tuple[int, int]]) -> None:
    caution, z, all_ended, all_preempted = Caution(3.0), 3.0, 0, 0
    for ended, preempted in drawn:
        caution.observed(ended, preempted)
        all_ended, all_preempted = all_ended + ended, all_preempted + preempted
        if all_ended >= WINDOW:
            if all_preempted > TOO_MANY * all_ended:
                z = min(z + RAISE, MOST)
            elif all_preempted == 0:
                z = max(z * LOWER, LEAST)
            all_ended = all_preempted = 0
        assert caution.z == z
