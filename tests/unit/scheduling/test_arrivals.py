"""Requests in order of arrival against sorting them."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.arrivals import ArrivalOrder
from gateway.scheduling.waiting import Waiting

MakeWaiting = Callable[..., Waiting]
actions = st.lists(st.tuples(st.integers(0, 20), st.booleans(), st.integers(0, 40)), max_size=60)


@given(actions)
def test_first_are_those_who_arrived_first(
    a_request: MakeWaiting, drawn: list[tuple[int, bool, int]]
) -> None:
    arrivals, here = ArrivalOrder(), list[Waiting]()
    for arrived_s, leaves, place in drawn:
        request = a_request(arrived_s=float(arrived_s))
        arrivals.add(request)
        here.append(request)
        if leaves:
            gone = here.pop(place % len(here))
            assert arrivals.remove(gone.id)
            assert not arrivals.remove(gone.id)
        arrivals.check()
        assert len(arrivals) == len(here)
        oldest = sorted(here, key=lambda request: request.arrived_s)
        assert arrivals.first(place) == oldest[:place]


def test_same_id_cannot_wait_twice(a_request: MakeWaiting) -> None:
    arrivals, request = ArrivalOrder(), a_request()
    arrivals.add(request)
    with pytest.raises(ValueError, match=f"{request.id} waits already"):
        arrivals.add(request)
    assert len(arrivals) == 1


def test_who_left_may_come_back(a_request: MakeWaiting) -> None:
    arrivals, request = ArrivalOrder(), a_request()
    arrivals.add(request)
    arrivals.remove(request.id)
    arrivals.add(request)
    assert arrivals.first(5) == [request]


def test_unknown_one_cannot_leave() -> None:
    assert not ArrivalOrder().remove("unknown")
