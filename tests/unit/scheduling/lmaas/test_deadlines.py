"""When requests become late and infeasible, against brute force."""

from collections.abc import Callable
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.scheduling.lmaas.cost_class import QueueEntry
from gateway.scheduling.lmaas.deadlines import Deadlines, StartLimits, start_limits
from gateway.scheduling.requests import Quantiles, QueuedRequest

MakeRequest = Callable[..., QueuedRequest]
MakeEntry = Callable[..., QueueEntry]
QUANTILES: Quantiles = (10.0, 20.0, 30.0, 40.0, 80.0, 100.0)
times = st.integers(0, 60).map(float)
requests = st.tuples(st.one_of(st.none(), times), st.integers(0, 20), st.one_of(st.none(), times))
actions = st.lists(
    st.tuples(st.integers(0, 8), st.one_of(st.none(), requests), st.integers(0, 30)), max_size=40
)


def seconds(tokens: float) -> float:
    return tokens / 10


def test_limits_follow_from_the_p90_the_median_and_a_very_low_quantile(
    a_request: MakeRequest,
) -> None:
    request = a_request(quantiles=QUANTILES, deadline_s=50.0)
    assert start_limits(request, seconds) == StartLimits(42.0, 47.0, 49.75)  # 10³/20² tokens


@given(st.lists(st.integers(1, 500), min_size=6, max_size=6), times)
def test_request_is_late_before_unlikely_before_infeasible(
    a_request: MakeRequest, drawn: list[int], deadline_s: float
) -> None:
    low, lower, middle, upper, high, highest = map(float, sorted(drawn))
    quantiles = low, lower, middle, upper, high, highest
    limits = start_limits(a_request(quantiles=quantiles, deadline_s=deadline_s), seconds)
    assert limits.late_s == deadline_s - seconds(high)
    assert deadline_s - seconds(low) <= limits.infeasible_s + 1e-9
    assert limits.unlikely_s == deadline_s - seconds(middle)
    assert limits.late_s <= limits.unlikely_s <= limits.infeasible_s + 1e-9
    assert limits.infeasible_s < deadline_s


@pytest.mark.parametrize(
    ("start_by_s", "infeasible_s"), [(None, 50.0), (30.0, 30.0), (60.0, 50.0), (49.8, 49.8)]
)
def test_untrusted_predictions_make_no_request_infeasible(
    a_request: MakeRequest, start_by_s: float | None, infeasible_s: float
) -> None:
    request = a_request(quantiles=QUANTILES, deadline_s=50.0, start_by_s=start_by_s)
    assert start_limits(request, seconds, trusted=False) == StartLimits(42.0, 47.0, infeasible_s)


def test_provisional_prediction_refuses_only_what_one_token_would_miss(
    a_request: MakeRequest,
) -> None:
    request = replace(a_request(quantiles=QUANTILES, deadline_s=50.0), provisional=True)
    assert start_limits(request, seconds) == StartLimits(42.0, 47.0, 49.9)


def test_latest_start_makes_infeasible_but_never_late(a_request: MakeRequest) -> None:
    request = a_request(quantiles=QUANTILES, start_by_s=7.0)
    assert start_limits(request, seconds) == StartLimits(inf, inf, 7.0)
    assert start_limits(request, seconds, trusted=False) == StartLimits(inf, inf, 7.0)


def test_earlier_of_both_limits_makes_infeasible(a_request: MakeRequest) -> None:
    early = a_request(quantiles=QUANTILES, deadline_s=50.0, start_by_s=30.0)
    late = a_request(quantiles=QUANTILES, deadline_s=50.0, start_by_s=60.0)
    assert start_limits(early, seconds) == StartLimits(42.0, 47.0, 30.0)
    assert start_limits(late, seconds) == StartLimits(42.0, 47.0, 49.75)


@pytest.mark.parametrize("trusted", [True, False])
def test_request_without_deadline_is_never_late_nor_infeasible(
    a_request: MakeRequest, an_entry: MakeEntry, trusted: bool
) -> None:
    limits = start_limits(a_request(), seconds, trusted=trusted)
    assert limits == StartLimits(inf, inf, inf)
    entry = an_entry(a_request())
    deadlines = Deadlines({entry.serial: entry})
    deadlines.add(entry, limits)
    assert deadlines.late(1e12, 1) is None
    assert deadlines.infeasible(1e12) == []


@given(actions, st.sampled_from([1, 3, 10]))
def test_late_requests_go_by_deadline_while_few_and_infeasible_ones_are_returned_once(
    a_request: MakeRequest,
    an_entry: MakeEntry,
    drawn: list[tuple[int, tuple[float | None, int, float | None] | None, int]],
    factor: int,
) -> None:
    """`factor` requests are queued per request with a deadline."""
    check_against_brute_force(a_request, an_entry, drawn, factor)


@given(st.lists(actions, min_size=4, max_size=4))
def test_rebuilt_heaps_drop_removed_entries_only(
    a_request: MakeRequest,
    an_entry: MakeEntry,
    drawn: list[list[tuple[int, tuple[float | None, int, float | None] | None, int]]],
) -> None:
    """Many entries in little time, so that the heaps are rebuilt."""
    soon = [(0, new, place) for some in drawn for _, new, place in some]
    check_against_brute_force(a_request, an_entry, [*soon, *drawn[0]], 10)


def check_against_brute_force(
    a_request: MakeRequest,
    an_entry: MakeEntry,
    drawn: list[tuple[int, tuple[float | None, int, float | None] | None, int]],
    factor: int,
) -> None:
    queued, now_s = dict[int, QueueEntry](), 0.0
    deadlines = Deadlines(queued)
    added: list[tuple[QueueEntry, StartLimits]] = []
    returned: list[QueueEntry] = []
    for passed_s, new, place in drawn:
        now_s += passed_s
        if new is not None:
            deadline_s, slack, start_by_s = new
            request = a_request(generation=10 * slack, deadline_s=deadline_s, start_by_s=start_by_s)
            entry = an_entry(request)
            queued[entry.serial] = entry
            added.append((entry, start_limits(request, seconds, trusted=bool(slack % 3))))
            deadlines.add(*added[-1])
        elif added:
            removed = added[place % len(added)][0]
            queued.pop(removed.serial, None)
            deadlines.remove(removed)
        queued_limits = [(entry, limits) for entry, limits in added if entry.serial in queued]
        late = [e for e, limits in queued_limits if limits.late_s <= now_s <= limits.unlikely_s]
        soonest = min(late, key=lambda e: (e.request.deadline_s, e.serial), default=None)
        waiting = len(queued) * factor
        at_risk = sum(limits.late_s <= now_s for _, limits in queued_limits)
        crowded = at_risk > 1 and 10 * at_risk > waiting
        assert deadlines.late(now_s, waiting) is (None if crowded else soonest)
        assert deadlines.crowded(waiting) == crowded
        found = deadlines.infeasible(now_s)
        due = [e for e, limits in queued_limits if limits.infeasible_s < now_s]
        assert {e.serial for e in found} == {e.serial for e in due if e not in returned}
        assert len(found) == len({e.serial for e in found})
        returned += found


@pytest.mark.parametrize("waiting", [0, 5, 300])
def test_removed_entries_do_not_accumulate(
    a_request: MakeRequest, an_entry: MakeEntry, waiting: int
) -> None:
    queued = dict[int, QueueEntry]()
    deadlines = Deadlines(queued)
    for _ in range(5_000):
        entry = an_entry(a_request(deadline_s=1e6))
        queued[entry.serial] = entry
        deadlines.add(entry, StartLimits(1e6 - 9, 1e6 - 5, 1e6 - 1))
        if len(queued) > waiting:
            deadlines.remove(queued.pop([*queued][len(queued) // 2]))
        heaps = (
            deadlines._becoming_late,
            deadlines._becoming_unlikely,
            deadlines._becoming_infeasible,
        )
        assert all(len(heap._heap) <= 2 * waiting + 40 for heap in heaps)
    assert {e.serial for e in deadlines.infeasible(1e6)} == queued.keys()
