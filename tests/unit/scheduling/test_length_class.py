"""Classes of similar length, their members and their rank."""

from collections.abc import Callable
from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.entry import Entry
from gateway.scheduling.length_class import SHORTEST_WAIT_S, WIDTH, LengthClass, class_of
from gateway.scheduling.waiting import Waiting

MakeWaiting = Callable[..., Waiting]
MakeEntry = Callable[..., Entry]
servings = st.floats(1e-6, 1e6)
urgencies = st.floats(0.25, 4.0)
powers = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 16))
waits = st.one_of(st.just(0.0), st.floats(0, 1e6))


def a_class(entries: list[Entry]) -> LengthClass:
    batch = LengthClass(class_of(entries[0]), "b")
    for entry in entries:
        batch.add(entry)
    return batch


@given(servings)
def test_serving_time_lies_within_its_class(
    a_request: MakeWaiting, an_entry: MakeEntry, serving_s: float
) -> None:
    level = class_of(an_entry(a_request(), serving_s))[2]
    assert WIDTH**level * (1 - 1e-9) <= serving_s <= WIDTH ** (level + 1) * (1 + 1e-9)


@given(servings, servings)
def test_longer_request_is_in_no_lower_class(
    a_request: MakeWaiting, an_entry: MakeEntry, serving_s: float, other_s: float
) -> None:
    both = sorted([serving_s, other_s])
    lower, higher = (class_of(an_entry(a_request(), each_s))[2] for each_s in both)
    assert lower <= higher


@pytest.mark.parametrize("difference", [{"model": "other"}, {"urgency": 2.0}])
def test_requests_of_unlike_kind_share_no_class(
    a_request: MakeWaiting, an_entry: MakeEntry, difference: dict[str, object]
) -> None:
    assert class_of(an_entry(a_request())) != class_of(an_entry(a_request(**difference)))
    assert class_of(an_entry(a_request())) == class_of(an_entry(a_request(tenant="another")))


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=40))
def test_members_are_told_oldest_first(
    a_request: MakeWaiting, an_entry: MakeEntry, drawn: list[tuple[int, bool]]
) -> None:
    batch, here = LengthClass(("demo", 1.0, 20), "b"), list[Entry]()
    for arrived_s, leaves in drawn:
        here.append(an_entry(a_request(arrived_s=float(arrived_s))))
        batch.add(here[-1])
        if leaves:
            batch.remove(here.pop(len(here) // 2))
        oldest = sorted(here, key=lambda entry: entry.request.arrived_s)
        assert batch.first(5) == oldest[:5]
        if here:
            assert batch.oldest_s == oldest[0].request.arrived_s


@given(servings, urgencies, waits, st.floats(0, 100), powers)
def test_rank_is_a_power_of_the_weighted_wait_by_serving_time(
    a_request: MakeWaiting,
    an_entry: MakeEntry,
    serving_s: float,
    urgency: float,
    waited_s: float,
    arrived_s: float,
    power: float,
) -> None:
    entry = an_entry(a_request(arrived_s=arrived_s, urgency=urgency), serving_s)
    now_s = arrived_s + waited_s
    waited_s = max(urgency * (now_s - arrived_s), SHORTEST_WAIT_S)
    exact = power * log(waited_s) - log(serving_s)
    rank = a_class([entry]).rank(now_s, power)
    assert rank == pytest.approx(
        exact, abs=log(WIDTH) / 2 + 1e-6
    )  # its class counts, in the middle


def test_rank_follows_the_oldest_that_stays(a_request: MakeWaiting, an_entry: MakeEntry) -> None:
    old, new = (an_entry(a_request(arrived_s=float(arrived_s))) for arrived_s in (3, 8))
    batch = a_class([new, old])
    before = batch.rank(10.0, 1.0)
    batch.remove(old)
    assert exp(batch.rank(10.0, 1.0) - before) == pytest.approx(2 / 7)


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=12),
    urgencies,
    powers,
    st.one_of(st.floats(-60, 60), st.integers(0, 11)),
)
def test_those_above_a_rank_are_the_oldest_and_who_reaches_it(
    a_request: MakeWaiting,
    an_entry: MakeEntry,
    drawn: list[int],
    urgency: float,
    power: float,
    bar: float,
) -> None:
    entries = [
        an_entry(a_request(arrived_s=float(arrived_s), urgency=urgency)) for arrived_s in drawn
    ]
    oldest = sorted(entries, key=lambda entry: entry.request.arrived_s)
    alone = [a_class([entry]).rank(50.0, power) for entry in oldest]
    rank = alone[bar % len(alone)] if isinstance(bar, int) else bar  # exactly as high as one
    reach = [e for e, each in zip(oldest, alone, strict=True) if each >= rank]
    most = len(entries) // 2 + 1
    assert a_class(entries).above(rank, 50.0, power, most) == (reach or oldest[:1])[:most]
