"""Fixed batches: what holds beyond the tests of every policy."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.admission.reservation import SumOfReservations
from gateway.scheduling.baselines.fixed import FixedPolicy
from gateway.scheduling.requests import QueuedRequest

MakeRequest: TypeAlias = Callable[..., QueuedRequest]
SIZE = 3


def a_policy(pages: int = 1_000) -> FixedPolicy:
    policy = FixedPolicy(SIZE, admission=SumOfReservations("maximum"))
    policy.resize(pages, 10)
    return policy


def end(policy: FixedPolicy, requests: Sequence[QueuedRequest]) -> None:
    for request in requests:
        policy.ended(request, 1, 0.0)


def ids(requests: tuple[QueuedRequest, ...]) -> str:
    return "".join(request.id for request in requests)


def test_batches_are_the_oldest_of_the_fixed_size(a_request: MakeRequest) -> None:
    policy = a_policy()
    for place, name in enumerate("dacbe"):
        policy.arrive(a_request(request_id=name, arrived_s=float(place)))
    batches = []
    while (found := policy.dispatch(9.0)) is not None:
        batches.append(ids(found.requests))
        end(policy, found.requests)
    assert batches == ["dac", "be"]
    assert not len(policy)


def test_request_that_arrived_earlier_but_was_queued_later_goes_first(
    a_request: MakeRequest,
) -> None:
    policy = a_policy()
    policy.arrive(a_request(request_id="b", arrived_s=2.0))
    policy.arrive(a_request(request_id="a", arrived_s=1.0))
    found = policy.dispatch(5.0)
    assert found is not None
    assert (ids(found.requests), found.waited_s) == ("ab", 4.0)


def test_next_batch_waits_until_the_previous_one_has_ended(
    a_request: MakeRequest,
) -> None:
    policy = a_policy()
    for _ in range(2 * SIZE):
        policy.arrive(a_request())
    first = policy.dispatch(1.0)
    assert first is not None
    for request in first.requests:
        assert policy.dispatch(2.0) is None
        policy.ended(request, 1, 2.0)
    assert policy.dispatch(3.0) is not None


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=12))
def test_batch_at_its_maximum_length_fits_unless_it_is_one_request(
    a_request: MakeRequest, drawn: list[tuple[int, int]]
) -> None:
    policy = a_policy(pages=60)
    for place, (prompt, longest) in enumerate(drawn):
        policy.arrive(
            a_request(prompt, 1, max_tokens=longest, arrived_s=float(place), request_id=str(place))
        )
    order: list[str] = []
    while (found := policy.dispatch(99.0)) is not None:
        pages = sum(-(-(r.prompt_tokens + r.max_tokens) // 10) for r in found.requests)
        assert len(found.requests) == 1 or pages <= 60
        assert len(found.requests) <= SIZE
        order += [request.id for request in found.requests]
        end(policy, found.requests)
    assert order == [str(place) for place in range(len(drawn))]


def test_request_cannot_wait_twice(a_request: MakeRequest) -> None:
    policy = a_policy()
    policy.arrive(a_request(request_id="same"))
    with pytest.raises(ValueError, match="same"):
        policy.arrive(a_request(request_id="same"))


def test_batch_larger_than_the_pool_is_left_to_the_idle_engine(a_request: MakeRequest) -> None:
    policy = a_policy(pages=5)
    policy.arrive(a_request(500))
    policy.arrive(a_request(500))
    found = policy.dispatch(1.0)
    assert found is not None
    assert len(found.requests) == 1
    assert policy.dispatch(1.0) is None


def test_order_is_by_arrival_regardless_of_predictions(a_request: MakeRequest) -> None:
    policy = a_policy()
    policy.arrive(a_request(generation=90, arrived_s=0.0, deadline_s=1.0))
    policy.arrive(a_request(generation=10, arrived_s=1.0))
    policy.trust(trusted=False)
    assert policy.give_up(99.0) == []
    found = policy.dispatch(99.0)
    assert found is not None
    assert [request.median for request in found.requests] == [90, 10]
    assert (policy.order, found.reason) == ("arrival", "arrival")
