"""Admission by E + z·sd against a sum over every step and every sequence."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.admission import Capacity, Forecast, admissible
from gateway.scheduling.remaining import Lengths
from gateway.scheduling.waiting import Running, Waiting

MakeWaiting = Callable[..., Waiting]
MakeRunning = Callable[..., Running]
sizes = st.tuples(st.integers(1, 120), st.integers(1, 200), st.integers(0, 199))


def peak_of_every_step(running: list[Running], capacity: Capacity) -> float:
    reach = max((seq.max_tokens - seq.generated for seq in running), default=0)
    alive = Lengths.of(running).alive(np.arange(0.0, reach + 1))
    peak = 0.0
    for step in range(reach + 1):
        pages = [
            -(-(seq.prompt_tokens + seq.generated + step) // capacity.page_tokens)
            for seq in running
        ]
        mean = sum(n * p for n, p in zip(pages, alive[:, step], strict=True))
        variance = sum(n * n * p * (1 - p) for n, p in zip(pages, alive[:, step], strict=True))
        peak = max(peak, mean + capacity.z * variance**0.5)
    return peak


@given(st.lists(sizes, max_size=8), st.integers(1, 16), st.sampled_from([0.0, 1.0, 3.0]))
def test_peak_is_never_below_the_worst_step_and_little_above(
    a_sequence: MakeRunning, drawn: list[tuple[int, int, int]], page: int, z: float
) -> None:
    running = [a_sequence(p, g, generated=spent) for p, g, spent in drawn]
    capacity = Capacity(10_000 // page, page, z)
    exact = peak_of_every_step(running, capacity)
    assert exact - 1e-6 <= Forecast(running, capacity).peak() <= 1.15 * exact + 1


@given(st.lists(sizes, max_size=8), st.integers(1, 16))
def test_peak_of_the_near_steps_is_exact(
    a_sequence: MakeRunning, drawn: list[tuple[int, int, int]], page: int
) -> None:
    running = [
        a_sequence(p, 5 + g / 10, generated=spent % 14, max_tokens=16) for p, g, spent in drawn
    ]
    capacity = Capacity(10_000 // page, page, 3.0)
    exact = peak_of_every_step(running, capacity)
    assert Forecast(running, capacity).peak() == pytest.approx(exact)


@given(
    st.lists(sizes, max_size=5),
    st.lists(st.tuples(st.integers(1, 120), st.integers(1, 200)), min_size=1, max_size=12),
    st.integers(12, 375),
)
def test_admissible_is_what_one_by_one_from_scratch_admits(
    a_sequence: MakeRunning,
    a_request: MakeWaiting,
    running_sizes: list[tuple[int, int, int]],
    batch_sizes: list[tuple[int, int]],
    pages: int,
) -> None:
    running = [a_sequence(p, g, generated=spent) for p, g, spent in running_sizes]
    batch = [a_request(p, g) for p, g in batch_sizes]
    capacity = Capacity(pages, 8, 2.0)
    fits = 0
    for count in range(1, len(batch) + 1):
        together = [*running, *(request.started() for request in batch[:count])]
        alone = len(together) == 1 and capacity.holds(batch[0])
        if not alone and Forecast(together, capacity).peak() > capacity.pages:
            break
        fits = count
    assert admissible(batch, running, capacity) == fits


@given(sizes, st.integers(1, 16))
def test_lone_request_that_fits_at_its_longest_is_admitted(
    a_request: MakeWaiting, size: tuple[int, int, int], page: int
) -> None:
    request = a_request(size[0], size[1])
    enough = Capacity((size[0] + 200 + page - 1) // page, page, 50.0)
    assert admissible([request], [], enough) == 1
    assert Forecast([], enough).fits([request]) == [True]


def test_candidates_are_judged_alone_by_fits_and_together_by_admit(
    a_request: MakeWaiting, a_sequence: MakeRunning
) -> None:
    forecast = Forecast([a_sequence(400)], Capacity(37, 16, 0.0))
    requests = [a_request(100), a_request(100), a_request(300)]
    assert forecast.fits(requests) == [True, True, False]
    assert forecast.admit(requests) == 1
    assert forecast.fits(requests[1:2]) == [False]


def test_longer_candidate_than_any_running_is_forecast_to_its_end(
    a_request: MakeWaiting, a_sequence: MakeRunning
) -> None:
    certain = (900.0,) * 6
    running = [a_sequence(10, max_tokens=20)]
    long = a_request(10, max_tokens=1000, quantiles=certain)
    assert admissible([long], running, Capacity(600, 1, 0.0)) == 0
    assert admissible([long], running, Capacity(1100, 1, 0.0)) == 1
