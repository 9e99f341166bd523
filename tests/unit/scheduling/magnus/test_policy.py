"""Magnus's rules on a lock-step engine, against their definition."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.admission.reservation import SumOfReservations
from gateway.scheduling.magnus.policy import BatchRank, MagnusPolicy, highest_ratio, oldest_first
from gateway.scheduling.magnus.wma import WasteLimit, row_reads
from gateway.scheduling.policy import is_lockstep
from gateway.scheduling.requests import QueuedRequest
from gateway.scheduling.serving_time import ServingTime

MakeRequest: TypeAlias = Callable[..., QueuedRequest]
PHI = 0.6
sizes = st.tuples(st.integers(1, 100), st.integers(1, 100), st.floats(0, 5))


def a_policy(rank: BatchRank = highest_ratio, tokens: int = 800) -> MagnusPolicy:
    policy = MagnusPolicy("magnus", rank, WasteLimit(PHI), admission=SumOfReservations("held"))
    policy.resize(tokens, 1)
    return policy


def dispatched(policy: MagnusPolicy, now_s: float) -> tuple[QueuedRequest, ...]:
    found = policy.dispatch(now_s)
    assert found is not None
    return found.requests


def waste(lengths: list[tuple[int, float]]) -> float:
    """WMA(B), the reads of the longest row less the minimum of the members, as a share of it."""
    longest = row_reads(max(p for p, _ in lengths), max(g for _, g in lengths))
    return (longest - min(row_reads(*member) for member in lengths)) / max(longest, 1)


def seconds(batch: Sequence[QueuedRequest]) -> float:
    """S of a batch before anything was learned."""
    longest = max(request.prompt_tokens for request in batch)
    return ServingTime().estimate(len(batch), longest, max(request.p90 for request in batch))


def end(policy: MagnusPolicy, requests: Sequence[QueuedRequest]) -> None:
    for request in requests:
        policy.ended(request, 1, 0.0)


@given(st.lists(sizes, min_size=1, max_size=20), st.integers(200, 2_000))
def test_whole_batch_of_highest_ratio_goes_next(
    a_request: MakeRequest, drawn: list[tuple[int, int, float]], tokens: int
) -> None:
    policy, now_s, left = a_policy(tokens=tokens), 0.0, len(drawn)
    for prompt, generation, passed_s in drawn:
        now_s += passed_s
        policy.arrive(a_request(prompt, generation, arrived_s=now_s))
    while left:
        now_s += 1.7
        batches = [batch.requests for batch in policy.waiting(now_s)]
        served = [seconds(batch) for batch in batches]
        waited = [now_s - min(r.arrived_s for r in batch) for batch in batches]
        ratios = [(w + s) / s for w, s in zip(waited, served, strict=True)]
        found = dispatched(policy, now_s)
        assert found in batches
        assert ratios[batches.index(found)] == pytest.approx(max(ratios))
        assert ratios == pytest.approx(sorted(ratios, reverse=True))
        left -= len(found)
        end(policy, found)
        policy.check()


@given(st.lists(sizes, min_size=1, max_size=20), st.integers(200, 2_000))
def test_without_the_ratio_the_batch_of_the_oldest_goes_next(
    a_request: MakeRequest, drawn: list[tuple[int, int, float]], tokens: int
) -> None:
    policy, now_s, waiting = a_policy(oldest_first, tokens), 0.0, dict[str, float]()
    for prompt, generation, passed_s in drawn:
        now_s += passed_s + 0.1
        request = a_request(prompt, generation, arrived_s=now_s)
        policy.arrive(request)
        waiting[request.id] = now_s
        policy.observe(3, prompt, generation, passed_s + 0.1)  # serving times make no difference
    while waiting:
        now_s += 1.7
        first = next(policy.waiting(now_s))
        found = dispatched(policy, now_s)
        assert found == first.requests
        assert min(waiting, key=waiting.__getitem__) in [request.id for request in found]
        for request in found:
            del waiting[request.id]
        end(policy, found)
        policy.check()


@given(st.lists(sizes, min_size=1, max_size=30), st.integers(200, 2_000))
def test_batch_keeps_below_waste_and_memory(
    a_request: MakeRequest, drawn: list[tuple[int, int, float]], tokens: int
) -> None:
    policy = a_policy(tokens=tokens)
    for prompt, generation, _ in drawn:
        policy.arrive(a_request(prompt, generation))
    while len(policy):
        batch = dispatched(policy, 1.0)
        lengths = [(request.prompt_tokens, request.p90) for request in batch]
        longest = max(p for p, _ in lengths) + max(g for _, g in lengths)
        assert len(batch) == 1 or len(batch) * longest <= tokens
        assert waste(lengths) <= PHI
        end(policy, batch)


def test_next_batch_waits_until_the_previous_one_has_ended(a_request: MakeRequest) -> None:
    policy = a_policy()
    for generation in (10, 10, 80):
        policy.arrive(a_request(10, generation))
    first = dispatched(policy, 1.0)
    assert [request.median for request in first] == [10, 10]
    end(policy, first[:1])
    assert policy.dispatch(2.0) is None
    end(policy, first[1:])
    assert [request.median for request in dispatched(policy, 2.0)] == [80]


def test_batch_out_of_memory_is_queued_again_as_two_closed_halves(
    a_request: MakeRequest,
) -> None:
    policy = a_policy()
    for place in range(5):
        policy.arrive(a_request(arrived_s=float(place)))
    failed = dispatched(policy, 9.0)
    assert len(failed) == 5
    policy.halve(failed)
    assert policy.admission.empty
    policy.arrive(a_request(arrived_s=9.0))
    policy.check()
    insertable = {key: batch.insertable for key, batch in policy._batcher.batches.items()}
    waiting = {batch.requests: insertable[batch.id] for batch in policy.waiting(9.0)}
    assert waiting == {
        failed[:2]: False,
        failed[2:]: False,
        next(batch for batch in waiting if len(batch) == 1): True,
    }
    assert len(policy) == 6
    assert dispatched(policy, 10.0) in (failed[:2], failed[2:])


def test_halves_are_exempt_from_the_maximum_queue_time(a_request: MakeRequest) -> None:
    policy = a_policy()
    for _ in range(4):
        policy.arrive(a_request(start_by_s=9.0))
    policy.halve(dispatched(policy, 8.0))
    assert policy.give_up(10.0) == []
    assert len(policy) == 4


def test_request_left_of_a_batch_is_queued_again_alone(a_request: MakeRequest) -> None:
    policy = a_policy()
    policy.arrive(a_request())
    lone = dispatched(policy, 1.0)
    policy.halve(lone)
    policy.arrive(a_request(arrived_s=1.0))
    policy.check()
    assert [len(batch.requests) for batch in policy.waiting(2.0)] == [1, 1]
    assert dispatched(policy, 2.0) == lone


def test_magnus_needs_lock_step_and_always_trusts() -> None:
    policy = a_policy()
    policy.trust(trusted=False)
    assert (policy.lockstep, policy.order) == (True, "policy")
    assert is_lockstep(policy)
    assert policy.give_up(1e9) == []


def test_dispatch_is_the_queued_batch(a_request: MakeRequest) -> None:
    policy = a_policy()
    for _ in range(3):
        policy.arrive(a_request())
    [batch] = policy.waiting(1.0)
    found = policy.dispatch(1.0)
    assert found is not None
    assert (found.requests, found.ratio) == (batch.requests, pytest.approx(batch.ratio))
