"""Ranked policies against sorting by the rank."""

from collections.abc import Callable
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.admission.future_peak import FuturePeak
from gateway.scheduling.baselines.ranked import RankedPolicy, RankFunction, by_length, by_ratio
from gateway.scheduling.requests import QueuedRequest
from gateway.scheduling.serving_time import MAX_PROPORTION_CHANGE, ServingTime

MakeRequest: TypeAlias = Callable[..., QueuedRequest]
sizes = st.tuples(st.integers(1, 300), st.integers(1, 200))
actions = st.lists(
    st.tuples(st.floats(0, 10), st.one_of(st.none(), sizes)), min_size=1, max_size=40
)


def a_policy(rank: RankFunction) -> RankedPolicy:
    policy = RankedPolicy("plain", rank, admission=FuturePeak(0.0))
    policy.resize(0, 8)
    return policy


def sent(policy: RankedPolicy, now_s: float) -> QueuedRequest:
    """Dispatch the next request and end it."""
    found = policy.dispatch(now_s)
    assert found is not None
    [request] = found.requests
    policy.ended(request, 1, now_s)
    return request


@given(actions)
def test_highest_response_ratio_goes_next_at_any_time(
    a_request: MakeRequest, drawn: list[tuple[float, tuple[int, int] | None]]
) -> None:
    policy, waiting, now_s = a_policy(by_ratio), dict[str, QueuedRequest](), 0.0
    serving = ServingTime()
    for passed_s, new in drawn:
        now_s += passed_s
        if new is not None:
            request = a_request(*new, arrived_s=now_s)
            waiting[request.id] = request
            policy.arrive(request)
        elif waiting:
            served = {key: serving.of([request]) for key, request in waiting.items()}
            ratios = {k: (now_s - waiting[k].arrived_s + s) / s for k, s in served.items()}
            found = sent(policy, now_s)
            assert ratios[found.id] == pytest.approx(max(ratios.values()))
            del waiting[found.id]
    listed = [batch.ratio for batch in policy.waiting(now_s)]
    assert listed == pytest.approx(sorted(listed, reverse=True))
    policy.check()


@given(st.lists(sizes, min_size=2, max_size=12), st.integers(1, 40), st.floats(1e-3, 10))
def test_ratio_follows_the_learned_serving_times(
    a_request: MakeRequest, drawn: list[tuple[int, int]], outcomes: int, scale: float
) -> None:
    policy, serving = a_policy(by_ratio), ServingTime()
    requests = [a_request(*size, arrived_s=float(place)) for place, size in enumerate(drawn)]
    for request in requests:
        policy.arrive(request)
    for size in range(1, outcomes):  # prompts are costly and steps nearly free
        outcome = (size, 10 * size, 400.0 / size, scale * size * size)
        policy.observe(*outcome)
        serving.observe(*outcome)
    ratio = {r.id: 1 + (20.0 - r.arrived_s) / serving.of([r]) for r in requests}
    policy.check()
    assert MAX_PROPORTION_CHANGE**2 * ratio[sent(policy, 20.0).id] >= max(ratio.values())


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(0, 30)), min_size=1, max_size=20))
def test_shortest_goes_first_regardless_of_arrival(
    a_request: MakeRequest, drawn: list[tuple[int, int]]
) -> None:
    policy = a_policy(by_length)
    for generation, arrived_s in drawn:
        policy.arrive(a_request(generation=generation, arrived_s=float(arrived_s)))
    medians = [sent(policy, 50.0).median for _ in drawn]
    assert medians == sorted(medians)


def test_ranked_policy_ignores_deadlines_and_never_falls_back(a_request: MakeRequest) -> None:
    policy = a_policy(by_length)
    policy.arrive(a_request(generation=40, deadline_s=1.0))
    policy.arrive(a_request(generation=20, arrived_s=3.0))
    policy.trust(trusted=False)
    assert policy.give_up(99.0) == []
    assert policy.order == "policy"
    assert sent(policy, 99.0).median == 20


def test_distrust_changes_neither_order_nor_admission(a_request: MakeRequest) -> None:
    admission = FuturePeak(3.0)
    policy = RankedPolicy("plain", by_ratio, admission=admission)
    admission.force(a_request())
    peak = admission._peak(admission._ahead.mean, admission._ahead.variance)
    policy.trust(trusted=False)
    assert (policy.order, admission.z, admission.stale) == ("policy", 3.0, False)
    assert admission._peak(admission._ahead.mean, admission._ahead.variance) == peak
