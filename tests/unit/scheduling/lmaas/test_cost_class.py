"""Classes of similar cost, their members and their rank."""

from collections.abc import Callable
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.lmaas.cost_class import MAX_COST_RATIO, CostClass, QueueEntry, class_key
from gateway.scheduling.requests import QueuedRequest

MakeRequest = Callable[..., QueuedRequest]
MakeEntry = Callable[..., QueueEntry]
costs = st.floats(1e-3, 1e12)
urgencies = st.floats(0.25, 4.0)
rates = st.one_of(st.sampled_from([0.0, 0.01, 1.0]), st.floats(0, 100))
waits = st.one_of(st.just(0.0), st.floats(0, 1e6))


def a_class(entries: list[QueueEntry]) -> CostClass:
    batch = CostClass(class_key(entries[0]), "b")
    for entry in entries:
        batch.add(entry)
    return batch


@given(costs, st.floats(1e-3, 1e3))
def test_cost_lies_within_its_class_regardless_of_serving_time(
    a_request: MakeRequest, an_entry: MakeEntry, cost: float, serving_s: float
) -> None:
    level = class_key(an_entry(a_request(), cost, serving_s=serving_s))[1]
    assert MAX_COST_RATIO**level * (1 - 1e-9) <= cost <= MAX_COST_RATIO ** (level + 1) * (1 + 1e-9)


@given(costs, costs)
def test_higher_cost_is_in_no_lower_class(
    a_request: MakeRequest, an_entry: MakeEntry, cost: float, other: float
) -> None:
    both = sorted([cost, other])
    lower, higher = (class_key(an_entry(a_request(), each))[1] for each in both)
    assert lower <= higher


def test_requests_of_different_urgency_share_no_class(
    a_request: MakeRequest, an_entry: MakeEntry
) -> None:
    assert class_key(an_entry(a_request())) != class_key(an_entry(a_request(urgency=2.0)))
    assert class_key(an_entry(a_request())) == class_key(an_entry(a_request(tenant="another")))


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 9), st.booleans()), min_size=1, max_size=40
    )
)
def test_members_are_ordered_by_virtual_arrival(
    a_request: MakeRequest, an_entry: MakeEntry, drawn: list[tuple[int, int, bool]]
) -> None:
    batch, queued = CostClass((1.0, 20), "b"), list[QueueEntry]()
    for arrived_s, credit_s, leaves in drawn:
        request = a_request(arrived_s=float(arrived_s))
        queued.append(an_entry(request, virtual_arrival_s=float(arrived_s - credit_s)))
        batch.add(queued[-1])
        if leaves:
            batch.remove(queued.pop(len(queued) // 2))
        order = sorted(queued, key=lambda entry: entry.virtual_arrival_s)
        assert batch.first(5) == order[:5]
        if queued:
            assert batch.oldest_s == min(entry.request.arrived_s for entry in queued)


@given(costs, urgencies, waits, st.floats(-100, 100), rates)
def test_rank_is_urgency_over_cost_times_an_exponential_of_the_weighted_wait(
    a_request: MakeRequest,
    an_entry: MakeEntry,
    cost: float,
    urgency: float,
    waited_s: float,
    virtual_arrival_s: float,
    gain_per_s: float,
) -> None:
    entry = an_entry(
        a_request(arrived_s=1e3, urgency=urgency), cost, virtual_arrival_s=virtual_arrival_s
    )
    now_s = virtual_arrival_s + waited_s
    counted = gain_per_s * urgency * (now_s - virtual_arrival_s)
    rank = a_class([entry]).rank(now_s, gain_per_s)
    assert rank - counted == pytest.approx(
        log(urgency / cost), abs=log(MAX_COST_RATIO) / 2 + 1e-12 * counted + 1e-6
    )  # the cost counts as the middle of its class


@given(costs, st.floats(1.0, MAX_COST_RATIO), waits, rates)
def test_members_of_one_class_rank_by_their_waits_alone(
    a_request: MakeRequest,
    an_entry: MakeEntry,
    cost: float,
    dearer: float,
    waited_s: float,
    gain_per_s: float,
) -> None:
    both = [an_entry(a_request(), each) for each in (cost, cost * dearer)]
    ranks = [a_class([entry]).rank(waited_s, gain_per_s) for entry in both]
    if class_key(both[0]) == class_key(both[1]):
        assert ranks[0] == ranks[1]
    else:
        assert ranks[0] - ranks[1] == pytest.approx(log(MAX_COST_RATIO), rel=1e-6)


def test_rank_follows_the_first_remaining_member(
    a_request: MakeRequest, an_entry: MakeEntry
) -> None:
    first, second = (
        an_entry(a_request(arrived_s=9.0), virtual_arrival_s=virtual_arrival_s)
        for virtual_arrival_s in (3.0, 8.0)
    )
    batch = a_class([second, first])
    before = batch.rank(10.0, 0.5)
    batch.remove(first)
    assert batch.rank(10.0, 0.5) - before == pytest.approx(-0.5 * 5.0)


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=12),
    urgencies,
    rates,
    st.one_of(st.floats(-60, 60), st.integers(0, 11)),
)
def test_members_above_a_rank_are_the_first_and_those_that_reach_it(
    a_request: MakeRequest,
    an_entry: MakeEntry,
    drawn: list[int],
    urgency: float,
    gain_per_s: float,
    bar: float,
) -> None:
    request = a_request(arrived_s=9.0, urgency=urgency)
    entries = [
        an_entry(request, virtual_arrival_s=float(virtual_arrival_s)) for virtual_arrival_s in drawn
    ]
    order = sorted(entries, key=lambda entry: entry.virtual_arrival_s)
    alone = [a_class([entry]).rank(50.0, gain_per_s) for entry in order]
    rank = alone[bar % len(alone)] if isinstance(bar, int) else bar  # exactly as high as one
    reach = [e for e, each in zip(order, alone, strict=True) if each >= rank]
    most = len(entries) // 2 + 1
    assert a_class(entries).above(rank, 50.0, gain_per_s, most) == (reach or order[:1])[:most]
