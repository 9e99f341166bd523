"""Batches of a fixed size: what holds beyond the tests of every policy."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.admission.reservation import SumOfReservations
from gateway.scheduling.magnus.fixed import FixedPolicy, SimilarPolicy
from gateway.scheduling.magnus.wma import row_reads
from gateway.scheduling.policy import is_lockstep
from gateway.scheduling.requests import QueuedRequest

MakeRequest: TypeAlias = Callable[..., QueuedRequest]
SIZE = 3


def a_policy(kind: type[FixedPolicy] = FixedPolicy, pages: int = 1_000) -> FixedPolicy:
    policy = kind("fixed", SIZE, admission=SumOfReservations("held"))
    policy.resize(pages, 10)
    return policy


def dispatched(policy: FixedPolicy, now_s: float = 99.0) -> tuple[QueuedRequest, ...]:
    found = policy.dispatch(now_s)
    assert found is not None
    return found.requests


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


@pytest.mark.parametrize("kind", [FixedPolicy, SimilarPolicy])
@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=12))
def test_batch_keeps_its_size_however_small_the_memory(
    a_request: MakeRequest, kind: type[FixedPolicy], drawn: list[tuple[int, int]]
) -> None:
    policy = a_policy(kind, pages=1)
    for place, (prompt, longest) in enumerate(drawn):
        policy.arrive(a_request(prompt, 1, max_tokens=longest, arrived_s=float(place)))
    sizes = []
    while len(policy):
        found = dispatched(policy)
        sizes.append(len(found))
        end(policy, found)
    full, rest = divmod(len(drawn), SIZE)
    assert sizes == [SIZE] * full + [rest] * (rest > 0)


def wasted(first: QueuedRequest, second: QueuedRequest) -> float:
    """WMA of a batch of two."""
    pair = [(request.prompt_tokens, request.median) for request in (first, second)]
    longest = row_reads(max(p for p, _ in pair), max(g for _, g in pair))
    return longest - min(row_reads(*lengths) for lengths in pair)


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=25))
def test_similar_requests_go_with_the_oldest(
    a_request: MakeRequest, drawn: list[tuple[int, int]]
) -> None:
    policy, waiting = a_policy(SimilarPolicy), []
    for place, (prompt, generation) in enumerate(drawn):
        request = a_request(prompt, generation, arrived_s=float(place // 2))
        waiting.append(request)
        policy.arrive(request)
    expected = [batch.requests for batch in policy.waiting(99.0)]
    while waiting:
        found = dispatched(policy)
        oldest, *others = waiting
        others.sort(key=lambda request: wasted(oldest, request))  # of equals the oldest
        assert set(found) == {oldest, *others[: SIZE - 1]}
        assert found == expected.pop(0)
        waiting = [request for request in waiting if request not in found]
        end(policy, found)
        policy.check()


@pytest.mark.parametrize("kind", [FixedPolicy, SimilarPolicy])
def test_batch_out_of_memory_is_queued_again_as_two_closed_halves(
    a_request: MakeRequest, kind: type[FixedPolicy]
) -> None:
    policy = a_policy(kind)
    for name in "abcde":
        policy.arrive(a_request(request_id=name, arrived_s=ord(name), start_by_s=9.0))
    failed = dispatched(policy)
    policy.halve(failed)
    policy.check()
    assert policy.admission.empty
    assert policy.give_up(10.0) != []  # not the halves: they had started in time
    policy.arrive(a_request(request_id="earlier", arrived_s=1.0))
    waiting = [batch.requests for batch in policy.waiting(99.0)]
    order = []
    while len(policy):
        order.append(dispatched(policy))
        end(policy, order[-1])
    assert order == waiting
    assert [ids(batch) for batch in order] == ["earlier", "a", "bc"]


def test_half_loses_the_requests_that_are_withdrawn(a_request: MakeRequest) -> None:
    policy = a_policy()
    for name in "abc":
        policy.arrive(a_request(request_id=name, arrived_s=ord(name)))
    policy.halve(dispatched(policy))
    for name in "ab":
        assert policy.withdraw(name)
        policy.check()
    policy.arrive(a_request(request_id="b", arrived_s=ord("b")))  # the same id, in no half
    assert [ids(batch.requests) for batch in policy.waiting(99.0)] == ["b", "c"]


def test_request_left_of_a_batch_is_queued_again_alone(a_request: MakeRequest) -> None:
    policy = a_policy()
    policy.arrive(a_request(request_id="a", arrived_s=1.0))
    policy.halve(dispatched(policy))
    policy.arrive(a_request(request_id="b", arrived_s=2.0))
    assert [ids(batch.requests) for batch in policy.waiting(99.0)] == ["a", "b"]


def test_fixed_batches_need_lock_step() -> None:
    policy = a_policy()
    assert is_lockstep(policy)


def test_request_cannot_wait_twice(a_request: MakeRequest) -> None:
    policy = a_policy()
    policy.arrive(a_request(request_id="same"))
    with pytest.raises(ValueError, match="same"):
        policy.arrive(a_request(request_id="same"))


def test_order_is_by_arrival_regardless_of_predictions(a_request: MakeRequest) -> None:
    policy = a_policy()
    policy.arrive(a_request(generation=90, arrived_s=0.0, deadline_s=1.0))
    policy.arrive(a_request(generation=10, arrived_s=1.0))
    policy.trust(trusted=False)
    assert policy.give_up(99.0) == []
    found = policy.dispatch(99.0)
    assert found is not None
    assert [request.median for request in found.requests] == [90, 10]
    assert (policy.order, found.reason) == ("policy", "rank")  # its own order, no fallback
