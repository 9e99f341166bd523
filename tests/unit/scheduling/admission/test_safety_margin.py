"""What is kept free follows what was preempted."""

from math import exp
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.admission.safety_margin import (
    CALM,
    LEAST,
    MOST,
    RAREST,
    STALLS,
    TARGET,
    SafetyMargin,
    first_z,
)

outcomes = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5)), max_size=60)
targets = st.sampled_from([0.0, 0.01, TARGET, 0.2, 1.0])
BOTH = [0.02, TARGET, 0.2]
FEW = 1  # running, so that the target is as told


def test_each_preemption_raises_it_and_each_end_lowers_it() -> None:
    caution = SafetyMargin(3.0, target=0.1)
    caution.observed(0, 1, FEW)
    assert caution.z == pytest.approx(3.0 + 10 / CALM)
    caution.observed(1, 0, FEW)
    assert caution.z == pytest.approx(3.0 + 9 / CALM)


@pytest.mark.parametrize("target", [0.01, 0.05, 0.25])
def test_the_target_share_changes_nothing(target: float) -> None:
    caution = SafetyMargin(3.0, target)
    caution.observed(100, round(100 * target), FEW)
    assert caution.z == pytest.approx(3.0)


@given(st.floats(-MOST, 2 * MOST), targets, outcomes)
def test_it_takes_a_step_by_what_is_preempted_above_the_target_but_not_out_of_bounds(
    z: float, target: float, drawn: list[tuple[int, int]]
) -> None:
    caution = SafetyMargin(z, target)
    for ended, preempted in drawn:
        caution.observed(ended, preempted, FEW)
        step = (preempted - target * ended) / (CALM * max(target, RAREST))
        if step > 0 and z < MOST:
            z = min(z + step, MOST)
        elif step < 0 and z > LEAST:
            z = max(z + step, LEAST)
        assert caution.z == pytest.approx(z)


@given(st.floats(-MOST, 2 * MOST), targets, outcomes)
def test_it_stays_within_its_bounds_or_where_it_was_told_to_be(
    z: float, target: float, drawn: list[tuple[int, int]]
) -> None:
    caution = SafetyMargin(z, target)
    for outcome in drawn:
        before = caution.z
        caution.observed(*outcome, FEW)
        assert min(before, LEAST) <= caution.z <= max(before, MOST)


@pytest.mark.parametrize(("outcome", "bound"), [((1, 1), MOST), ((1, 0), LEAST)])
def test_bounds_are_reached_and_kept(outcome: tuple[int, int], bound: float) -> None:
    caution = SafetyMargin(3.0)
    for _ in range(4_000):
        caution.observed(*outcome, FEW)
    assert caution.z == bound


def test_calm_raises_and_preemptions_lower_nothing_that_was_told() -> None:
    daring, wary = SafetyMargin(LEAST - 1), SafetyMargin(MOST + 1)
    daring.observed(100, 0, FEW)
    wary.observed(100, 100, FEW)
    assert (daring.z, wary.z) == (LEAST - 1, MOST + 1)


def test_what_was_told_outside_the_bounds_moves_inwards_and_not_out_again() -> None:
    daring, wary = SafetyMargin(LEAST - 1), SafetyMargin(MOST + 1)
    daring.observed(0, 2, FEW)
    wary.observed(50, 0, FEW)
    inwards = daring.z, wary.z
    assert inwards == pytest.approx((LEAST - 1 + 2 / (CALM * TARGET), MOST + 1 - 50 / CALM))
    assert inwards[0] < LEAST < MOST < inwards[1]
    daring.observed(100, 0, FEW)
    wary.observed(0, 100, FEW)
    assert (daring.z, wary.z) == inwards


@given(st.floats(-MOST, 2 * MOST), outcomes)
def test_a_target_of_nothing_never_lowers_it(z: float, drawn: list[tuple[int, int]]) -> None:
    caution = SafetyMargin(z, target=0.0)
    for ended, preempted in drawn:
        before = caution.z
        caution.observed(ended, preempted, FEW)
        assert caution.z >= before
        assert (caution.z > before) == (preempted > 0 and before < MOST)


@given(st.integers(0, 60), st.integers(0, 3), st.floats(3.0, 5.0))
def test_one_by_one_comes_to_the_same_as_all_at_once(ended: int, preempted: int, z: float) -> None:
    at_once, one_by_one = SafetyMargin(z), SafetyMargin(z)
    at_once.observed(ended, preempted, FEW)
    for _ in range(ended):
        one_by_one.observed(1, 0, FEW)
    for _ in range(preempted):
        one_by_one.observed(0, 1, FEW)
    assert one_by_one.z == pytest.approx(at_once.z)


def preempted_share(
    caution: SafetyMargin, random: Random, *, harshness: float, drift: float
) -> float:
    """Of 20,000 requests, where the more z the fewer are preempted, and how few drifts."""
    preempted, needed = 0, harshness
    for _ in range(20_000):
        needed += random.gauss(0, drift) + 0.01 * (harshness - needed)
        hit = random.random() < exp(min(needed - caution.z, 0.0))
        caution.observed(1, int(hit), FEW)
        preempted += hit
    return preempted / 20_000


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("target", BOTH)
@pytest.mark.parametrize("z", [LEAST, 1.0, MOST])
def test_it_settles_where_the_target_share_is_preempted(z: float, target: float, seed: int) -> None:
    caution, random = SafetyMargin(z, target), Random(seed)
    preempted_share(caution, random, harshness=0.5, drift=0.0)
    settled = preempted_share(caution, random, harshness=0.5, drift=0.0)
    assert settled == pytest.approx(target, rel=0.05)
    after = preempted_share(caution, random, harshness=2.5, drift=0.0)
    assert after == pytest.approx(target + 2.0 * CALM * target / 20_000, rel=0.1)  # the way there


@pytest.mark.parametrize("target", BOTH)
def test_it_settles_there_in_a_world_that_drifts(target: float) -> None:
    caution, random = SafetyMargin(1.0, target), Random(1)
    preempted_share(caution, random, harshness=1.5, drift=0.05)
    settled = preempted_share(caution, random, harshness=1.5, drift=0.05)
    assert settled == pytest.approx(target, rel=0.05)


def test_it_settles_the_higher_the_harsher_the_world() -> None:
    settled = []
    for harshness in (0.5, 1.5, 3.0):
        caution = SafetyMargin(1.0)
        preempted_share(caution, Random(2), harshness=harshness, drift=0.0)
        settled.append(caution.z)
    assert settled == sorted(settled)
    assert settled[2] - settled[0] == pytest.approx(2.5, abs=1.0)


def test_a_world_without_preemptions_leaves_nothing_free() -> None:
    caution = SafetyMargin(MOST)
    assert preempted_share(caution, Random(3), harshness=-50.0, drift=0.0) == 0.0
    assert caution.z == LEAST


@pytest.mark.parametrize(
    ("target", "z"),
    [(0.0, 3.09), (0.001, 3.09), (0.005, 2.58), (0.1, 1.28), (0.5, 0.0), (1.0, 0.0)],
)
def test_it_begins_where_a_normal_peak_would_be_exceeded_as_often(target: float, z: float) -> None:
    assert first_z(target) == pytest.approx(z, abs=0.01)


@pytest.mark.parametrize(("running", "target"), [(0, 0.1), (16, 0.1), (160, 0.01), (320, 0.005)])
def test_the_more_run_the_rarer_preemptions_shall_be(running: int, target: float) -> None:
    assert target == pytest.approx(min(TARGET, STALLS / max(running, 1)))
    caution = SafetyMargin(3.0)
    caution.observed(200, round(200 * target), running)
    assert caution.z == pytest.approx(3.0)
    caution.observed(0, 1, running)
    assert caution.z == pytest.approx(3.0 + 1 / (CALM * target))


def test_what_is_told_to_be_rarer_still_holds_where_many_run() -> None:
    caution = SafetyMargin(3.0, target=0.004)
    caution.observed(500, 2, running=16)
    assert caution.z == pytest.approx(3.0)
