"""Generated and rescaled arrival times."""

import numpy as np
import pytest

from gateway.errors import InvalidRequest
from gateway.quantiles import Floats
from gateway.replay.workload.arrivals import (
    CYCLE_REQUESTS,
    ArrivalsName,
    bursts,
    generate_arrivals,
    rescaled,
)

COUNT = 40_000
GENERATED: tuple[ArrivalsName, ...] = ("poisson", "gamma", "bursts")


def made(
    name: ArrivalsName, seed: int = 1, *, rate_s: float = 4.0, variation: float = 2.0
) -> Floats:
    return generate_arrivals(name, COUNT, rate_s, np.random.default_rng(seed), variation)


def variation_of(times: Floats) -> float:
    gaps = np.diff(times)
    return float(gaps.std() / gaps.mean())


@pytest.mark.parametrize("name", GENERATED)
def test_arrivals_rise_and_keep_their_rate_exactly(name: ArrivalsName) -> None:
    times = made(name)
    assert (np.diff(times) >= 0).all()
    assert times[0] == 0
    assert (COUNT - 1) / times[-1] == pytest.approx(4)


@pytest.mark.parametrize("name", GENERATED)
def test_a_seed_gives_the_same_arrivals_and_another_gives_others(name: ArrivalsName) -> None:
    assert (made(name) == made(name)).all()
    assert (made(name) != made(name, seed=2)).any()


def test_gaps_have_the_given_variation() -> None:
    assert variation_of(made("poisson")) == pytest.approx(1, abs=0.03)
    assert variation_of(made("gamma", variation=2)) == pytest.approx(2, abs=0.1)
    assert variation_of(made("gamma", variation=0.5)) == pytest.approx(0.5, abs=0.02)


def test_bursts_are_three_times_the_rate_for_a_fifth_of_the_time() -> None:
    times = bursts(COUNT, np.random.default_rng(3))
    window = CYCLE_REQUESTS / 50  # far shorter than a phase
    counts = np.bincount((times / window).astype(int)) / window
    assert np.quantile(counts, 0.95) == pytest.approx(3, abs=0.7)
    assert np.median(counts) == pytest.approx(0.5, abs=0.15)
    assert (counts > 1.7).mean() == pytest.approx(0.2, abs=0.04)


def test_rescaled_gaps_keep_their_proportions() -> None:
    times = rescaled(np.array([5.0, 6.0, 8.0, 8.0]), rate_s=10)
    assert times == pytest.approx([0, 0.1, 0.3, 0.3])


def test_requests_of_one_instant_have_no_rate() -> None:
    with pytest.raises(InvalidRequest, match="all arrive at once"):
        rescaled(np.array([5.0, 5.0]), rate_s=10)


def test_one_request_can_be_generated() -> None:
    for name in GENERATED:
        assert len(generate_arrivals(name, 1, 4.0, np.random.default_rng(1))) == 1


def test_arrivals_of_a_trace_are_not_generated() -> None:
    with pytest.raises(ValueError, match="not generated"):
        made("trace")
