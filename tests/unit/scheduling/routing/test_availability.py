"""Which engines take work."""

from gateway.scheduling.routing.availability import (
    DOUBLING_STEPS,
    FIRST_SEQUENCES,
    MAX_DOUBLINGS,
    Availability,
)


def test_every_engine_takes_any_number_at_first() -> None:
    available = Availability(3)
    assert list(available.open(lambda _: 10**6)) == [0, 1, 2]
    assert available.state(0) == "ready"


def test_lost_and_draining_engines_take_nothing() -> None:
    available = Availability(3)
    available.lost(0)
    available.drain(1, draining=True)
    assert list(available.open(lambda _: 0)) == [2]
    assert [available.state(engine) for engine in range(3)] == ["lost", "draining", "ready"]
    available.drain(1, draining=False)
    assert list(available.open(lambda _: 10**6)) == [1, 2]


def test_returned_engine_takes_twice_as_many_after_each_interval() -> None:
    available = Availability(2)
    available.lost(0)
    available.advance(0, 1_000)
    available.returned(0)
    assert available.state(0) == "starting"
    for doublings in range(4):
        most = FIRST_SEQUENCES << doublings
        assert available.allows(0, most - 1)
        assert not available.allows(0, most)
        available.advance(0, DOUBLING_STEPS)
    available.advance(0, MAX_DOUBLINGS * DOUBLING_STEPS)
    assert available.state(0) == "ready"
    assert available.allows(0, 10**6)


def test_engine_may_return_at_once() -> None:
    available = Availability(2)
    available.lost(0)
    available.returned(0, gradually=False)
    assert list(available.open(lambda _: 10**6)) == [0, 1]


def test_drained_and_starting_engines_are_present() -> None:
    available = Availability(3)
    available.lost(0)
    available.lost(1)
    available.returned(1)
    available.drain(2, draining=True)
    assert list(available.present()) == [1, 2]


def test_engine_that_was_not_lost_needs_no_slow_start() -> None:
    available = Availability(2)
    available.returned(0)
    assert available.state(0) == "ready"
