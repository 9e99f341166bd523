"""Admission by E + z·sd against a sum over every step and every sequence."""

from collections.abc import Callable, Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.scheduling.admission.future_peak import FuturePeak
from gateway.scheduling.admission.interface import Capacity
from gateway.scheduling.admission.length_distribution import LengthDistributions
from gateway.scheduling.admission.page_forecast import (
    INTERVAL_STARTS,
    REFRESH_STEPS,
    page_use_ahead,
)
from gateway.scheduling.requests import Quantiles, QueuedRequest, RunningSequence

MakeRequest = Callable[..., QueuedRequest]
MakeRunning = Callable[..., RunningSequence]
POOL = 10_000  # tokens
sizes = st.tuples(st.integers(1, 120), st.integers(1, 200), st.integers(0, 199))
newcomers = st.lists(st.tuples(st.integers(1, 120), st.integers(1, 200)), max_size=4)
margins = st.sampled_from([0.0, 1.0, 3.0])
pages_of = st.integers(1, 16)
quantiles = st.lists(st.integers(1, 200), min_size=6, max_size=6).map(
    lambda drawn: tuple(float(tokens) for tokens in sorted(drawn))
)


def an_admission(
    running: Sequence[RunningSequence] = (), *, pages: int = 1_000, page: int = 8, z: float = 2.0
) -> FuturePeak:
    admission = FuturePeak(z)
    admission.resize(Capacity(pages, page))
    admission.refresh(running)
    return admission


def peak_of(admission: FuturePeak) -> float:
    """Mean + z·sd of the peak page use until all running sequences finish."""
    return admission._peak(admission._ahead.mean, admission._ahead.variance)


def use_at(
    sequence: RunningSequence, horizons: np.ndarray, page: int
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of one sequence's pages at these horizons, in steps."""
    survival = LengthDistributions.of([sequence]).survival(horizons)[0]
    pages = np.ceil((sequence.prompt_tokens + sequence.generated + horizons) / page)
    return pages * survival, pages**2 * survival * (1 - survival)


def peak_of_every_step(
    running: Sequence[RunningSequence],
    page: int,
    z: float,
    *,
    since: int = 0,
    joined: Sequence[RunningSequence] = (),
) -> float:
    """The peak over the steps from `since` on, at which `joined` start."""
    return peak_at(steps_until_the_end(running, since, joined), running, page, z, since, joined)


def peak_of_first_steps(
    running: Sequence[RunningSequence],
    page: int,
    z: float,
    *,
    since: int = 0,
    joined: Sequence[RunningSequence] = (),
) -> float:
    """The peak over the first steps of the intervals only."""
    steps = steps_until_the_end(running, since, joined)
    return peak_at(steps[np.isin(steps, INTERVAL_STARTS)], running, page, z, since, joined)


def steps_until_the_end(
    running: Sequence[RunningSequence], since: int, joined: Sequence[RunningSequence]
) -> np.ndarray:
    ends = [sequence.max_tokens - sequence.generated for sequence in running]
    ends += [since + sequence.max_tokens for sequence in joined]
    return np.arange(since, max([since, *ends]) + 1, dtype=np.float64)


def peak_at(
    steps: np.ndarray,
    running: Sequence[RunningSequence],
    page: int,
    z: float,
    since: int,
    joined: Sequence[RunningSequence],
) -> float:
    uses = [use_at(sequence, steps, page) for sequence in running]
    uses += [use_at(sequence, steps - since, page) for sequence in joined]
    mean = sum((use[0] for use in uses), np.zeros(len(steps)))
    variance = sum((use[1] for use in uses), np.zeros(len(steps)))
    return float((mean + z * np.sqrt(variance)).max())


@given(st.lists(sizes, max_size=8), pages_of, margins)
def test_peak_is_at_least_that_of_the_first_steps_and_little_more(
    a_sequence: MakeRunning, drawn: list[tuple[int, int, int]], page: int, z: float
) -> None:
    running = [a_sequence(p, g, generated=spent) for p, g, spent in drawn]
    exact, first = (peak(running, page, z) for peak in (peak_of_every_step, peak_of_first_steps))
    found = peak_of(an_admission(running, pages=POOL // page, page=page, z=z))
    assert first - 1e-6 <= found <= 1.15 * exact + 1


@given(st.lists(sizes, max_size=8), quantiles, pages_of)
def test_mean_peak_is_at_least_the_exact_one(
    a_sequence: MakeRunning, drawn: list[tuple[int, int, int]], lengths: Quantiles, page: int
) -> None:
    running = [a_sequence(p, generated=spent, quantiles=lengths) for p, _, spent in drawn]
    exact = peak_of_every_step(running, page, 0.0)
    assert exact - 1e-6 <= peak_of(an_admission(running, pages=POOL // page, page=page, z=0.0))


@given(st.lists(sizes, max_size=8), pages_of)
def test_peak_within_the_single_steps_is_exact(
    a_sequence: MakeRunning, drawn: list[tuple[int, int, int]], page: int
) -> None:
    running = [
        a_sequence(p, 5 + g / 10, generated=spent % 14, max_tokens=16) for p, g, spent in drawn
    ]
    exact = peak_of_every_step(running, page, 3.0)
    found = peak_of(an_admission(running, pages=POOL // page, page=page, z=3.0))
    assert found == pytest.approx(exact)


@given(quantiles, st.integers(1, 300), st.integers(200, 900), pages_of)
def test_candidate_counts_like_the_running_sequence(
    a_request: MakeRequest, drawn: Quantiles, prompt: int, longest: int, page: int
) -> None:
    request = a_request(prompt, quantiles=drawn, max_tokens=longest)
    admission = an_admission(pages=POOL // page, page=page)
    admission.force(request)
    mean, variance = page_use_ahead([request.started()], page, len(admission._ahead.mean))
    assert admission._ahead.mean == pytest.approx(mean[0], rel=1e-5, abs=1e-3)
    assert np.sqrt(admission._ahead.variance) == pytest.approx(
        np.sqrt(variance[0]), rel=1e-3, abs=1.0
    )


@given(st.lists(sizes, max_size=6), newcomers, st.integers(0, REFRESH_STEPS), pages_of, margins)
def test_peak_after_some_steps_covers_the_remaining_steps(
    a_sequence: MakeRunning,
    a_request: MakeRequest,
    drawn: list[tuple[int, int, int]],
    new: list[tuple[int, int]],
    steps: int,
    page: int,
    z: float,
) -> None:
    running = [a_sequence(p, g, generated=spent) for p, g, spent in drawn]
    requests = [a_request(p, g) for p, g in new]
    admission = an_admission(running, pages=POOL // page, page=page, z=z)
    admission.advance(steps)
    for request in requests:
        admission.force(request)
    joined = [request.started() for request in requests]
    exact, first = (
        peak(running, page, z, since=steps, joined=joined)
        for peak in (peak_of_every_step, peak_of_first_steps)
    )
    assert first - 1e-6 <= peak_of(admission) <= 1.2 * exact + 1


@given(st.lists(sizes, max_size=6), newcomers, st.integers(0, REFRESH_STEPS), pages_of)
def test_peak_within_the_single_steps_is_exact_after_some_steps(
    a_sequence: MakeRunning,
    a_request: MakeRequest,
    drawn: list[tuple[int, int, int]],
    new: list[tuple[int, int]],
    steps: int,
    page: int,
) -> None:
    running = [
        a_sequence(p, 5 + g / 10, generated=spent % 14, max_tokens=16) for p, g, spent in drawn
    ]
    requests = [a_request(p, 1 + g / 30, max_tokens=16 - REFRESH_STEPS) for p, g in new]
    admission = an_admission(running, pages=POOL // page, page=page, z=3.0)
    for step in range(steps):
        admission.advance(1)
        if step < len(requests):
            admission.leave("unknown")
    for request in requests:
        admission.force(request)
    joined = [request.started() for request in requests]
    exact = peak_of_every_step(running, page, 3.0, since=steps, joined=joined)
    assert peak_of(admission) == pytest.approx(exact, rel=1e-5, abs=1e-5)


@given(
    st.lists(sizes, max_size=5),
    st.lists(st.tuples(st.integers(1, 120), st.integers(1, 200)), min_size=1, max_size=12),
    st.integers(12, 375),
)
def test_admission_equals_recomputing_the_peak_per_candidate(
    a_sequence: MakeRunning,
    a_request: MakeRequest,
    running_sizes: list[tuple[int, int, int]],
    batch_sizes: list[tuple[int, int]],
    pages: int,
) -> None:
    running = [a_sequence(p, g, generated=spent) for p, g, spent in running_sizes]
    batch = [a_request(p, g) for p, g in batch_sizes]
    capacity, fits = Capacity(pages, 8), 0
    for count in range(1, len(batch) + 1):
        together = [*running, *(request.started() for request in batch[:count])]
        alone = len(together) == 1 and capacity.fits_alone(batch[0])
        if not alone and peak_of(an_admission(together, pages=pages)) > pages:
            break
        fits = count
    assert an_admission(running, pages=pages).admit(batch) == fits


@given(st.lists(sizes, max_size=4), newcomers, st.integers(0, REFRESH_STEPS), st.randoms())
def test_leave_undoes_admission(
    a_sequence: MakeRunning,
    a_request: MakeRequest,
    drawn: list[tuple[int, int, int]],
    new: list[tuple[int, int]],
    steps: int,
    random: Random,
) -> None:
    running = [a_sequence(p, g, generated=spent) for p, g, spent in drawn]
    admission = an_admission(running)
    admission.advance(steps)
    mean, variance = admission._ahead.mean, admission._ahead.variance
    requests = [a_request(p, g) for p, g in new]
    joined = requests[: admission.admit(requests)]
    for request in requests[len(joined) :]:
        admission.force(request)
    random.shuffle(requests)
    for request in [*requests, *requests]:
        admission.leave(request.id)
    assert admission._ahead.mean == pytest.approx(mean, abs=1e-6)
    assert admission._ahead.variance == pytest.approx(variance, abs=1e-6)
    assert admission.empty == (not running)


def test_refresh_is_due_after_some_steps(a_sequence: MakeRunning) -> None:
    admission = an_admission([a_sequence()])
    admission.advance(REFRESH_STEPS - 1)
    assert not admission.stale
    admission.advance(1)
    assert admission.stale
    admission.refresh([a_sequence(generated=REFRESH_STEPS)])
    assert not admission.stale


def test_resize_requires_a_refresh(a_sequence: MakeRunning, a_request: MakeRequest) -> None:
    running = [a_sequence(90), a_sequence(40)]
    admission = an_admission(running, pages=50, page=8)
    admission.resize(Capacity(500, 16))
    assert admission.stale
    admission.force(a_request())
    admission.leave(running[0].id)
    admission.refresh(running[1:])
    assert not admission.stale
    fresh = an_admission(running[1:], pages=500, page=16)
    assert peak_of(admission) == pytest.approx(peak_of(fresh))


def test_resize_without_running_sequences_requires_no_refresh(a_request: MakeRequest) -> None:
    admission = an_admission()
    admission.resize(Capacity(40, 16))
    assert not admission.stale
    assert admission.admit([a_request(50, max_tokens=200)]) == 1


@given(sizes, pages_of)
def test_lone_request_that_fits_at_its_maximum_length_is_admitted(
    a_request: MakeRequest, size: tuple[int, int, int], page: int
) -> None:
    request = a_request(size[0], size[1])
    enough = (size[0] + 200 + page - 1) // page
    assert an_admission(pages=enough, page=page, z=50.0).admit([request]) == 1


def test_too_large_a_prompt_is_not_admitted_but_can_be_forced(a_request: MakeRequest) -> None:
    admission, large = an_admission(pages=10), a_request(500)
    assert admission.admit([large]) == 0
    assert admission.empty
    admission.force(large)
    assert not admission.empty
    assert peak_of(admission) >= 500 / 8


def test_longer_candidate_than_any_running_is_forecast_to_its_end(
    a_sequence: MakeRunning, a_request: MakeRequest
) -> None:
    running = [a_sequence(10, max_tokens=20)]
    long = a_request(10, max_tokens=1000, quantiles=(900.0,) * 6)
    assert an_admission(running, pages=600, page=1, z=0.0).admit([long]) == 0
    assert an_admission(running, pages=1100, page=1, z=0.0).admit([long]) == 1


@given(
    st.lists(sizes, max_size=5),
    st.lists(st.tuples(st.integers(1, 120), st.integers(1, 200)), min_size=1, max_size=8),
    quantiles,
    st.integers(20, 375),
    st.integers(0, REFRESH_STEPS - 1),
)
def test_assumed_quantiles_apply_to_all_requests_until_reset(
    a_sequence: MakeRunning,
    a_request: MakeRequest,
    drawn: list[tuple[int, int, int]],
    new: list[tuple[int, int]],
    assumed: Quantiles,
    pages: int,
    steps: int,
) -> None:
    running = [a_sequence(p, g, generated=spent) for p, g, spent in drawn]
    requests = [a_request(p, g) for p, g in new]
    all_assumed = an_admission([replace(each, quantiles=assumed) for each in running], pages=pages)
    as_predicted = an_admission(running, pages=pages)
    admission = an_admission(running, pages=pages)
    admission.assume(assumed)
    assert admission.stale == bool(running)
    admission.refresh(running)
    assert not admission.stale
    for each in (all_assumed, as_predicted, admission):
        each.advance(steps)
    fits = all_assumed.admit([replace(request, quantiles=assumed) for request in requests])
    assert admission.admit(requests) == fits
    assert peak_of(admission) == pytest.approx(peak_of(all_assumed))
    for request in requests[:fits]:
        admission.leave(request.id)
    admission.assume(None)
    admission.refresh(running)
    admission.advance(steps)
    assert admission.admit(requests) == as_predicted.admit(requests)
    assert peak_of(admission) == pytest.approx(peak_of(as_predicted))


def test_sequence_that_left_before_a_pending_refresh_is_gone(
    a_sequence: MakeRunning,
) -> None:
    running = a_sequence(600)
    admission = an_admission([running], pages=100)
    admission.assume((5.0,) * 6)
    admission.leave(running.id)
    admission.assume((6.0,) * 6)
    if admission.stale:
        admission.refresh([])
    assert admission.empty
    assert peak_of(admission) == 0.0


def test_engine_reserves_the_predicted_median_despite_an_assumption(a_request: MakeRequest) -> None:
    admission = an_admission()
    admission.assume((150.0,) * 6)
    assert admission.reserve(a_request(generation=40)) == 40


def test_engine_reserves_the_median(a_request: MakeRequest) -> None:
    reserve = an_admission().reserve
    assert reserve(a_request(quantiles=(1.0, 2.0, 30.2, 40.0, 50.0, 60.0))) == 31
    assert reserve(a_request(quantiles=(0.2,) * 6)) == 1
    assert reserve(a_request(quantiles=(90.0,) * 6, max_tokens=60)) == 60
