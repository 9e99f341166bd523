"""The estimator as its owner feeds it."""

import numpy as np
import pytest

from gateway.scheduling.waits.arrivals import RecentArrivals
from gateway.scheduling.waits.estimator import WaitEstimator, used_room
from tests.unit.scheduling.waits.conftest import queued, running, snapshot


def looked(estimator: WaitEstimator, count: int) -> None:
    """A forecast with this many requests waiting behind one that runs, each of a second."""
    waiting = [(queued(str(number), 10), -float(number)) for number in range(count)]
    given = snapshot(waiting, [running(10)], most=1)
    estimator.adopt(estimator.begin(0.0, lambda: given).run())


def test_an_outlook_is_as_of_now() -> None:
    estimator = WaitEstimator()
    for number in range(4):
        estimator.arrive(queued(str(number), 10), -float(number), 0.0)
    looked(estimator, 4)
    first, later = (estimator.outlook("3", now_s) for now_s in (0.0, 1.5))
    assert first is not None
    assert later is not None
    assert later.start.p50 == pytest.approx(first.start.p50 - 1.5)
    assert later.finish.p50 > later.start.p50
    assert first.place == 4


def test_requests_since_the_forecast_are_counted_by_their_rank() -> None:
    estimator = WaitEstimator()
    looked(estimator, 4)
    before = estimator.expected_of_new("t", -10.0, 0.0).wait_s
    for number in range(10, 13):
        estimator.arrive(queued(str(number), 10), 0.5, 0.0)
    assert estimator.expected_of_new("t", -10.0, 0.0).wait_s == pytest.approx(before + 3.0)
    assert estimator.expected_of_new("t", 1.0, 0.0).wait_s == pytest.approx(1.0, rel=0.3)


def test_outcomes_are_learned_of_those_that_waited() -> None:
    estimator = WaitEstimator()
    for name in ("a", "b", "c"):
        estimator.arrive(queued(name, 10), 0.0, 0.0)
    estimator.started("a", 0.0, waited=False)
    estimator.started("b", 2.0)
    estimator.left("c")
    estimator.started("c", 3.0)
    assert estimator.at_arrival.outcomes == 1
    assert estimator.outlook("b", 2.0) is None


def test_the_room_is_what_runs_while_a_request_waits() -> None:
    blocked = snapshot([(queued("a", 100, prompt=50), 0.0)], [running(40), running(60)], most=9)
    assert used_room(blocked) == pytest.approx(30 + 40 + 100 / 2)
    assert used_room(snapshot([], [running(40)], most=9)) is None


def test_the_same_events_give_the_same_bands() -> None:
    def band() -> object:
        estimator = WaitEstimator()
        looked(estimator, 6)
        return estimator.arrive(queued("x", 10), -2.5, 0.5)

    assert band() == band()
    assert np.isfinite(list(band())).all()  # type: ignore[call-overload]


def test_a_burst_is_no_lasting_rate() -> None:
    arrivals = RecentArrivals()
    for number in range(40):
        arrivals.add(queued(str(number), 5), 0.0, number * 0.5)
    assert arrivals.rate(20.0) == pytest.approx(2.0, rel=0.15)
    for number in range(500):
        arrivals.add(queued(str(number), 5), 0.0, 20.5)
    assert arrivals.rate(21.0) == pytest.approx(2.0, rel=0.3)
    assert arrivals.rate(60.0) == 0.0
    assert RecentArrivals().rate(1.0) == 0.0
