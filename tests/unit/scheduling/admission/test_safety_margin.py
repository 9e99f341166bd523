"""The safety margin follows the preemption rate."""

from math import exp
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.admission.safety_margin import (
    COMPLETIONS_PER_Z,
    DEFAULT_TARGET,
    MAX_STALLS_PER_COMPLETION,
    MAX_Z,
    MIN_TARGET,
    MIN_Z,
    SafetyMargin,
    initial_z,
)

outcomes = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 5)), max_size=60)
targets = st.sampled_from([0.0, 0.01, DEFAULT_TARGET, 0.2, 1.0])
TARGETS = [0.02, DEFAULT_TARGET, 0.2]
FEW_RUNNING = 1  # sequences, so that the target is not lowered


def test_preemptions_raise_z_and_completions_lower_it() -> None:
    margin = SafetyMargin(3.0, target=0.1)
    margin.observed(0, 1, FEW_RUNNING)
    assert margin.z == pytest.approx(3.0 + 10 / COMPLETIONS_PER_Z)
    margin.observed(1, 0, FEW_RUNNING)
    assert margin.z == pytest.approx(3.0 + 9 / COMPLETIONS_PER_Z)


@pytest.mark.parametrize("target", [0.01, 0.05, 0.25])
def test_preemptions_at_the_target_leave_z_unchanged(target: float) -> None:
    margin = SafetyMargin(3.0, target)
    margin.observed(100, round(100 * target), FEW_RUNNING)
    assert margin.z == pytest.approx(3.0)


@given(st.floats(-MAX_Z, 2 * MAX_Z), targets, outcomes)
def test_step_is_proportional_to_the_excess_over_the_target_within_bounds(
    z: float, target: float, drawn: list[tuple[int, int]]
) -> None:
    margin = SafetyMargin(z, target)
    for ended, preempted in drawn:
        margin.observed(ended, preempted, FEW_RUNNING)
        step = (preempted - target * ended) / (COMPLETIONS_PER_Z * max(target, MIN_TARGET))
        if step > 0 and z < MAX_Z:
            z = min(z + step, MAX_Z)
        elif step < 0 and z > MIN_Z:
            z = max(z + step, MIN_Z)
        assert margin.z == pytest.approx(z)


@given(st.floats(-MAX_Z, 2 * MAX_Z), targets, outcomes)
def test_z_stays_within_its_bounds_or_at_its_initial_value(
    z: float, target: float, drawn: list[tuple[int, int]]
) -> None:
    margin = SafetyMargin(z, target)
    for outcome in drawn:
        before = margin.z
        margin.observed(*outcome, FEW_RUNNING)
        assert min(before, MIN_Z) <= margin.z <= max(before, MAX_Z)


@pytest.mark.parametrize(("outcome", "bound"), [((1, 1), MAX_Z), ((1, 0), MIN_Z)])
def test_bounds_are_reached_and_kept(outcome: tuple[int, int], bound: float) -> None:
    margin = SafetyMargin(3.0)
    for _ in range(4_000):
        margin.observed(*outcome, FEW_RUNNING)
    assert margin.z == bound


def test_initial_z_out_of_bounds_is_kept_if_feedback_points_outwards() -> None:
    low, high = SafetyMargin(MIN_Z - 1), SafetyMargin(MAX_Z + 1)
    low.observed(100, 0, FEW_RUNNING)
    high.observed(100, 100, FEW_RUNNING)
    assert (low.z, high.z) == (MIN_Z - 1, MAX_Z + 1)


def test_initial_z_out_of_bounds_moves_inwards_only() -> None:
    low, high = SafetyMargin(MIN_Z - 1), SafetyMargin(MAX_Z + 1)
    low.observed(0, 2, FEW_RUNNING)
    high.observed(50, 0, FEW_RUNNING)
    moved = low.z, high.z
    assert moved == pytest.approx(
        (MIN_Z - 1 + 2 / (COMPLETIONS_PER_Z * DEFAULT_TARGET), MAX_Z + 1 - 50 / COMPLETIONS_PER_Z)
    )
    assert moved[0] < MIN_Z < MAX_Z < moved[1]
    low.observed(100, 0, FEW_RUNNING)
    high.observed(0, 100, FEW_RUNNING)
    assert (low.z, high.z) == moved


@given(st.floats(-MAX_Z, 2 * MAX_Z), outcomes)
def test_target_of_zero_never_lowers_z(z: float, drawn: list[tuple[int, int]]) -> None:
    margin = SafetyMargin(z, target=0.0)
    for ended, preempted in drawn:
        before = margin.z
        margin.observed(ended, preempted, FEW_RUNNING)
        assert margin.z >= before
        assert (margin.z > before) == (preempted > 0 and before < MAX_Z)


@given(st.integers(0, 60), st.integers(0, 3), st.floats(3.0, 5.0))
def test_feedback_one_by_one_equals_feedback_at_once(ended: int, preempted: int, z: float) -> None:
    at_once, one_by_one = SafetyMargin(z), SafetyMargin(z)
    at_once.observed(ended, preempted, FEW_RUNNING)
    for _ in range(ended):
        one_by_one.observed(1, 0, FEW_RUNNING)
    for _ in range(preempted):
        one_by_one.observed(0, 1, FEW_RUNNING)
    assert one_by_one.z == pytest.approx(at_once.z)


def preempted_share(
    margin: SafetyMargin, random: Random, *, harshness: float, drift: float
) -> float:
    """The rate over 20,000 requests; it falls with z, at a level that drifts."""
    preempted, needed = 0, harshness
    for _ in range(20_000):
        needed += random.gauss(0, drift) + 0.01 * (harshness - needed)
        hit = random.random() < exp(min(needed - margin.z, 0.0))
        margin.observed(1, int(hit), FEW_RUNNING)
        preempted += hit
    return preempted / 20_000


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("z", [MIN_Z, 1.0, MAX_Z])
def test_z_settles_where_the_target_share_is_preempted(z: float, target: float, seed: int) -> None:
    margin, random = SafetyMargin(z, target), Random(seed)
    preempted_share(margin, random, harshness=0.5, drift=0.0)
    settled = preempted_share(margin, random, harshness=0.5, drift=0.0)
    assert settled == pytest.approx(target, rel=0.05)
    after = preempted_share(margin, random, harshness=2.5, drift=0.0)
    assert after == pytest.approx(
        target + 2.0 * COMPLETIONS_PER_Z * target / 20_000, rel=0.1
    )  # includes the transient


@pytest.mark.parametrize("target", TARGETS)
def test_z_settles_at_the_target_under_drift(target: float) -> None:
    margin, random = SafetyMargin(1.0, target), Random(1)
    preempted_share(margin, random, harshness=1.5, drift=0.05)
    settled = preempted_share(margin, random, harshness=1.5, drift=0.05)
    assert settled == pytest.approx(target, rel=0.05)


def test_z_settles_higher_where_memory_is_tighter() -> None:
    settled = []
    for harshness in (0.5, 1.5, 3.0):
        margin = SafetyMargin(1.0)
        preempted_share(margin, Random(2), harshness=harshness, drift=0.0)
        settled.append(margin.z)
    assert settled == sorted(settled)
    assert settled[2] - settled[0] == pytest.approx(2.5, abs=1.0)


def test_without_preemptions_z_falls_to_its_minimum() -> None:
    margin = SafetyMargin(MAX_Z)
    assert preempted_share(margin, Random(3), harshness=-50.0, drift=0.0) == 0.0
    assert margin.z == MIN_Z


@pytest.mark.parametrize(
    ("target", "z"),
    [(0.0, 3.09), (0.001, 3.09), (0.005, 2.58), (0.1, 1.28), (0.5, 0.0), (1.0, 0.0)],
)
def test_initial_z_is_the_quantile_of_a_normal_peak(target: float, z: float) -> None:
    assert initial_z(target) == pytest.approx(z, abs=0.01)


@pytest.mark.parametrize(("running", "target"), [(0, 0.1), (16, 0.1), (160, 0.01), (320, 0.005)])
def test_target_falls_with_the_number_running(running: int, target: float) -> None:
    assert target == pytest.approx(min(DEFAULT_TARGET, MAX_STALLS_PER_COMPLETION / max(running, 1)))
    margin = SafetyMargin(3.0)
    margin.observed(200, round(200 * target), running)
    assert margin.z == pytest.approx(3.0)
    margin.observed(0, 1, running)
    assert margin.z == pytest.approx(3.0 + 1 / (COMPLETIONS_PER_Z * target))


def test_lower_target_is_unaffected_by_the_number_running() -> None:
    margin = SafetyMargin(3.0, target=0.004)
    margin.observed(500, 2, running=16)
    assert margin.z == pytest.approx(3.0)
