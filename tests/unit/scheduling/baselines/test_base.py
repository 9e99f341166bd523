"""First come, first served against sorting by arrival."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.admission.future_peak import FuturePeak
from gateway.scheduling.baselines.base import FcfsPolicy
from gateway.scheduling.requests import QueuedRequest

MakeRequest = Callable[..., QueuedRequest]
actions = st.lists(st.tuples(st.integers(0, 20), st.booleans(), st.integers(0, 40)), max_size=60)


def a_policy(pages: int = 0) -> FcfsPolicy:
    policy = FcfsPolicy("plain", admission=FuturePeak(0.0))
    policy.resize(pages, 8)
    return policy


def sent(policy: FcfsPolicy, now_s: float) -> QueuedRequest:
    """Dispatch the next request and end it."""
    found = policy.dispatch(now_s)
    assert found is not None
    [request] = found.requests
    policy.ended(request, 1, now_s)
    return request


@given(actions)
def test_first_requests_are_the_oldest(
    a_request: MakeRequest, drawn: list[tuple[int, bool, int]]
) -> None:
    policy, queued = a_policy(), list[QueuedRequest]()
    for arrived_s, leaves, place in drawn:
        request = a_request(arrived_s=float(arrived_s))
        policy.arrive(request)
        queued.append(request)
        if leaves:
            removed = queued.pop(place % len(queued))
            assert policy.withdraw(removed.id)
            assert not policy.withdraw(removed.id)
        policy.check()
        assert len(policy) == len(queued)
        oldest = sorted(queued, key=lambda request: request.arrived_s)
        assert policy._first(place, 50.0) == oldest[:place]
        assert [batch.requests for batch in policy.waiting(50.0)] == [(each,) for each in oldest]


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(0, 30)), min_size=1, max_size=20))
def test_requests_are_served_in_order_of_arrival(
    a_request: MakeRequest, drawn: list[tuple[int, int]]
) -> None:
    policy, requests = a_policy(), list[QueuedRequest]()
    for generation, arrived_s in drawn:
        requests.append(a_request(generation=generation, arrived_s=float(arrived_s)))
        policy.arrive(requests[-1])
    order = [sent(policy, 50.0) for _ in drawn]
    assert order == sorted(requests, key=lambda request: request.arrived_s)


def test_no_request_passes_the_first_even_if_it_fits(a_request: MakeRequest) -> None:
    policy = a_policy(pages=100)
    for prompt, name in ((500, "runs"), (400, "waits"), (10, "small")):
        policy.arrive(a_request(prompt, request_id=name))
    first = policy.dispatch(1.0)
    assert first is not None
    assert [request.id for request in first.requests] == ["runs"]
    assert policy.dispatch(1.0) is None
    policy.ended(first.requests[0], 40, 2.0)
    assert [sent(policy, 2.0).id for _ in range(2)] == ["waits", "small"]


def test_same_id_cannot_wait_twice(a_request: MakeRequest) -> None:
    policy, request = a_policy(), a_request()
    policy.arrive(request)
    with pytest.raises(ValueError, match=f"{request.id} waits already"):
        policy.arrive(request)
    assert len(policy) == 1


def test_withdrawn_request_may_be_queued_again(a_request: MakeRequest) -> None:
    policy, request = a_policy(), a_request()
    policy.arrive(request)
    policy.withdraw(request.id)
    policy.arrive(request)
    assert policy._first(5, 0.0) == [request]


def test_unknown_request_cannot_be_withdrawn() -> None:
    assert not a_policy().withdraw("unknown")
