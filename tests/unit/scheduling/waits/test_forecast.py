"""The queue run forward."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.waits.arrivals import Arrival
from gateway.scheduling.waits.forecast import MAX_PASSES, Forecast, passes_of, run_forward
from gateway.scheduling.waits.snapshot import QueueSnapshot
from tests.unit.scheduling.waits.conftest import queued, running, snapshot


def forward(
    given: QueueSnapshot, arrivals: tuple[Arrival, ...] = (), rate: float = 0.0
) -> Forecast:
    return run_forward(given, arrivals, rate, given.room_tokens, np.random.default_rng(1))


def test_a_queued_request_starts_when_one_that_runs_has_ended() -> None:
    found = forward(snapshot([(queued("a", 20), 1.0)], [running(50, 10), running(30)], most=2))
    assert found.expected["a"].start_s == pytest.approx(3.0, rel=0.05)
    assert found.expected["a"].finish_s == pytest.approx(5.0, rel=0.05)


def test_the_highest_rank_starts_first() -> None:
    waiting = [(queued("low", 10), 1.0), (queued("high", 10), 2.0)]
    found = forward(snapshot(waiting, [running(10)], most=1)).expected
    assert (found["high"].place, found["low"].place) == (1, 2)
    assert found["low"].start_s - found["high"].start_s == pytest.approx(1.0, rel=0.05)


def test_the_tenant_with_the_lowest_counter_starts_first() -> None:
    waiting = [(queued("a", 10, tenant="busy"), 9.0), (queued("b", 10, tenant="new"), 1.0)]
    given = snapshot(waiting, [running(10)], most=1, counters={"busy": 500.0, "new": 0.0})
    found = forward(given).expected
    assert (found["b"].place, found["a"].place) == (1, 2)


def test_later_arrivals_of_higher_rank_go_first() -> None:
    waiting = [(queued("low", 10), -50.0)]
    given = snapshot(waiting, [running(10)], most=1)
    later = (Arrival(queued("like", 5), 0.0),)
    assert forward(given, later, rate=1.0).expected["low"].start_s > 2.0
    assert forward(given).expected["low"].start_s == pytest.approx(1.0, rel=0.05)


def test_a_new_request_is_placed_by_its_rank() -> None:
    waiting = [(queued(str(number), 10), -float(number)) for number in range(10)]
    found = forward(snapshot(waiting, [running(10)], most=1))
    starts = [found.start_of_new("t", rank) for rank in (1.0, -3.5, -20.0)]
    assert starts[0] == pytest.approx(1.0, rel=0.05)
    assert starts[1] == pytest.approx(5.0, rel=0.05)
    assert starts[2] > starts[1]


def test_longer_queues_get_fewer_passes() -> None:
    assert passes_of(0) == MAX_PASSES
    assert passes_of(100_000) == 1


lengths = st.integers(1, 60)


@given(st.lists(lengths, max_size=8), st.lists(lengths, min_size=1, max_size=4), st.integers(1, 4))
def test_known_lengths_are_foreseen_as_they_will_be(
    waiting: list[int], runs: list[int], most: int
) -> None:
    found = forward(
        snapshot(
            [(queued(str(n), tokens), -float(n)) for n, tokens in enumerate(waiting)],
            [running(tokens) for tokens in runs],
            most=most,
        )
    )
    expected = _one_by_one(waiting, runs, most)
    assert [found.expected[str(n)].start_s for n in range(len(waiting))] == pytest.approx(
        expected, rel=1e-6, abs=1e-6
    )


def _one_by_one(waiting: list[int], runs: list[int], most: int) -> list[float]:
    """Start times in order of rank, step by step: each takes 0.1 s."""
    left, starts, step = list(runs), list[float](), 0
    for tokens in waiting:
        while len(left) >= most:
            left = [each - 1 for each in left]
            step += 1
            left = [each for each in left if each > 0]
        starts.append(step * 0.1)
        left.append(tokens)
    return starts
