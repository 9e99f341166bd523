"""The order within a tenant, against a brute-force queue."""

from collections.abc import Callable, Iterator
from itertools import count
from math import exp, floor, inf, log
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.lmaas.cost_class import MAX_COST_RATIO, ClassKey, CostClass, QueueEntry
from gateway.scheduling.lmaas.deadlines import MAX_AT_RISK, StartLimits
from gateway.scheduling.lmaas.fcfs_reference import (
    LONGEST_WAIT_DECAY,
    MAX_CREDIT_RUNS,
    MAX_CREDIT_WAITS,
    MEAN_DECAY,
    MIN_RESPONSE_S,
    FcfsReference,
)
from gateway.scheduling.lmaas.tenant_queue import (
    CROWDED_WEIGHT,
    MAX_PER_DISPATCH,
    Candidates,
    OrderBounds,
    TenantQueue,
)
from gateway.scheduling.requests import QueuedRequest

MakeRequest = Callable[..., QueuedRequest]
MakeEntry = Callable[..., QueueEntry]
NO_LIMITS = StartLimits(inf, inf, inf)
UNBOUND = OrderBounds(max_delay_s=None)
TEN_SECONDS = OrderBounds(max_delay_s=10.0)
TOLERANCE = 1e-9
bounds_of = st.builds(
    OrderBounds,
    max_delay_s=st.sampled_from([None, 0.0, 5.0, 20.0]),
    waiting_weight=st.sampled_from([0.0, 0.5, 2.0, 10.0]),
)


def a_queue(bounds: OrderBounds = UNBOUND) -> TenantQueue:
    return TenantQueue(bounds, map("b{}".format, count(1)))


class TurnLog(FcfsReference[QueueEntry]):
    """Records the entries whose turn came, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[QueueEntry] = []

    def due(self) -> Iterator[QueueEntry]:
        for entry in super().due():
            self.log.append(entry)
            yield entry


def log_turns(queue: TenantQueue) -> list[QueueEntry]:
    """Install a turn log in a new queue."""
    turns = queue._fcfs = TurnLog()
    return turns.log


def filled(
    queue: TenantQueue,
    a_request: MakeRequest,
    an_entry: MakeEntry,
    costs: list[float],
    limits: StartLimits = NO_LIMITS,
) -> list[QueueEntry]:
    """Queue entries of these costs, one per second, each with a serving time of 1 s."""
    entries = [
        an_entry(a_request(arrived_s=float(place), deadline_s=100.0 + place), cost)
        for place, cost in enumerate(costs)
    ]
    for entry in entries:
        queue.add(entry, limits, entry.request.arrived_s)
    queue.check()
    return entries


def next_of(queue: TenantQueue, now_s: float) -> Candidates:
    return queue.next(now_s, by_arrival=False)


def key_of(entry: QueueEntry) -> ClassKey:
    return entry.request.urgency, floor(log(entry.cost) / log(MAX_COST_RATIO))


class BruteForceQueue:
    """The queue by its definition: each query scans all entries."""

    def __init__(self, bounds: OrderBounds) -> None:
        self.bounds = bounds
        self.all: list[QueueEntry] = []
        self.gone: set[int] = set()
        self.limits_of: dict[int, StartLimits] = {}
        self.turn_s: dict[int, float] = {}
        self.waits_s: list[float] = []  # at their turns, in order
        self.started = 0.0

    @property
    def queued(self) -> list[QueueEntry]:
        return [entry for entry in self.all if entry.serial not in self.gone]

    @property
    def mean_s(self) -> float:
        """The exponentially weighted mean of serving times."""
        weights = [MEAN_DECAY**age for age in range(len(self.all))]
        newest = [entry.serving_s for entry in reversed(self.all)]
        weighted = sum(weight * each for weight, each in zip(weights, newest, strict=True))
        return weighted / sum(weights) if weights else 0.0

    @property
    def longest_s(self) -> float:
        """The longest wait for a turn, with exponential decay."""
        decayed = (
            LONGEST_WAIT_DECAY**age * waited_s
            for age, waited_s in enumerate(reversed(self.waits_s))
        )
        return max(decayed, default=0.0)

    def gain_per_s(self, now_s: float) -> float:
        weight = self.bounds.waiting_weight * (CROWDED_WEIGHT if self.crowded(now_s) else 1)
        return weight / max(self.longest_s + self.mean_s, MIN_RESPONSE_S)

    def crowded(self, now_s: float) -> bool:
        at_risk = sum(self.limits_of[entry.serial].late_s <= now_s for entry in self.queued)
        return at_risk > max(MAX_AT_RISK * len(self.queued), 1)

    def arrive(self, entry: QueueEntry, limits: StartLimits) -> float:
        """The virtual arrival time."""
        self.limits_of[entry.serial] = limits
        self.all.append(entry)
        bound_s = min(MAX_CREDIT_RUNS * self.mean_s, MAX_CREDIT_WAITS * self.longest_s)
        return entry.request.arrived_s - min(entry.serving_s, bound_s)

    def leave(self, entry: QueueEntry) -> None:
        self.gone.add(entry.serial)
        self.started += entry.cost

    def note_turns(self, now_s: float) -> None:
        before = 0.0
        for entry in self.all:
            if before <= self.started and entry.serial not in self.turn_s:
                self.turn_s[entry.serial] = now_s
                self.waits_s.append(now_s - entry.request.arrived_s)
            before += entry.cost

    def late(self, now_s: float) -> list[QueueEntry]:
        limits_of = {entry: self.limits_of[entry.serial] for entry in self.queued}
        late = [entry for entry, w in limits_of.items() if w.late_s <= now_s <= w.unlikely_s]
        if self.crowded(now_s):
            return []
        return sorted(late, key=lambda entry: (entry.request.deadline_s, entry.serial))

    def overdue(self, now_s: float) -> list[QueueEntry]:
        if self.bounds.max_delay_s is None:
            return []
        bound_s = self.bounds.max_delay_s
        return [
            entry
            for entry in self.queued
            if self.turn_s.get(entry.serial, inf) + bound_s / entry.request.urgency <= now_s
        ]

    def rank(self, entry: QueueEntry, now_s: float) -> float:
        urgency, middle = entry.request.urgency, MAX_COST_RATIO ** (key_of(entry)[1] + 0.5)
        waited_s = now_s - entry.virtual_arrival_s
        return self.gain_per_s(now_s) * urgency * waited_s + log(urgency) - log(middle)

    @property
    def classes(self) -> dict[ClassKey, list[QueueEntry]]:
        """The members of each class, by virtual arrival."""
        found: dict[ClassKey, list[QueueEntry]] = {}
        for entry in sorted(self.queued, key=lambda entry: (entry.virtual_arrival_s, entry.serial)):
            found.setdefault(key_of(entry), []).append(entry)
        return found

    def check_all(self, queue: TenantQueue, now_s: float) -> None:
        queue.check()
        assert len(queue) == len(self.queued)
        if self.queued:
            for by_arrival in (False, True):
                found = queue.next(now_s, by_arrival=by_arrival)
                self.check(found, now_s, by_arrival=by_arrival)
        assert queue.gain_per_s == pytest.approx(self.gain_per_s(now_s))
        self.check_batches(queue.batches(now_s, by_arrival=False))
        self.check_batches(queue.batches(now_s, by_arrival=True))
        ranks = [
            self.rank(batch.first(1)[0], now_s) for batch in queue.batches(now_s, by_arrival=False)
        ]
        assert ranks == pytest.approx(sorted(ranks, reverse=True))
        oldest_s = [
            min(entry.request.arrived_s for entry in batch.members.values())
            for batch in queue.batches(now_s, by_arrival=True)
        ]
        assert oldest_s == sorted(oldest_s)

    def check_batches(self, batches: list[CostClass]) -> None:
        classes = self.classes
        members = [batch.first(len(self.queued)) for batch in batches]
        assert {key_of(each[0]): each for each in members} == classes
        assert len(batches) == len(classes)

    def check(self, found: Candidates, now_s: float, *, by_arrival: bool) -> None:
        late, overdue = self.late(now_s), self.overdue(now_s)
        if late or overdue:
            [entry] = found.entries
            assert entry is (overdue or late)[0]
            assert found.reason == ("overdue" if overdue else "late")
        elif by_arrival:
            assert found.entries == self.queued[:MAX_PER_DISPATCH]
            assert found.reason == "arrival"
        else:
            assert found.reason == "rank"
            self.check_ranks(found.entries, now_s)

    def check_ranks(self, found: list[QueueEntry], now_s: float) -> None:
        key = key_of(found[0])
        batch = self.classes[key]
        others = [self.rank(entry, now_s) for entry in self.queued if key_of(entry) != key]
        highest = max(others, default=-inf)
        assert found == batch[: len(found)]
        assert self.rank(found[0], now_s) >= highest - TOLERANCE
        assert all(self.rank(entry, now_s) >= highest - TOLERANCE for entry in found)
        if len(found) < min(len(batch), MAX_PER_DISPATCH):
            assert self.rank(batch[len(found)], now_s) <= highest + TOLERANCE


@given(bounds_of, st.integers(0, 100_000), st.sampled_from([0.0, 0.2]))
def test_order_is_overdue_then_late_then_highest_rank(
    a_request: MakeRequest, an_entry: MakeEntry, bounds: OrderBounds, seed: int, pressing: float
) -> None:
    random, queue, brute_force, now_s = Random(seed), a_queue(bounds), BruteForceQueue(bounds), 0.0
    turns = log_turns(queue)
    for _ in range(30):
        now_s += random.choice([0, 0, 1, 2, 5])
        if random.random() < 0.65:
            late_s = now_s + random.randrange(30) if random.random() < pressing else inf
            request = a_request(
                arrived_s=now_s,
                urgency=random.choice([1.0, 1.0, 4.0]),
                deadline_s=late_s + random.randrange(20),
            )
            cost = random.choice([4.0, 4.5, 20.0, 20.0, 24.0])
            entry = an_entry(request, cost, serving_s=random.choice([0.0, 0.5, 1.0, 4.0, 16.0]))
            limits = StartLimits(late_s, late_s + random.choice([0, 5, 20]), inf)
            virtual_arrival_s = brute_force.arrive(entry, limits)
            queue.add(entry, limits, now_s)
            assert entry.virtual_arrival_s == pytest.approx(virtual_arrival_s)
        elif brute_force.queued:
            gone = random.choice(
                [next_of(queue, now_s).entries[0], random.choice(brute_force.queued)]
            )
            queue.remove(gone, now_s)
            brute_force.leave(gone)
        brute_force.note_turns(now_s)
        assert [entry.serial for entry in turns] == [*brute_force.turn_s]
        brute_force.check_all(queue, now_s)


@given(
    st.floats(0.1, 10.0),
    st.floats(0.0, 50.0),
    st.floats(0.1, 10.0),
    st.floats(1.0, 1e6),
    st.sampled_from([0.99, 1.01]),
)
def test_request_that_waited_t_goes_before_a_new_one_cheaper_by_less_than_e_to_the_weight(
    a_request: MakeRequest,
    an_entry: MakeEntry,
    weight: float,
    turn_wait_s: float,
    serving_s: float,
    cost: float,
    times: float,
) -> None:
    queue = a_queue(OrderBounds(max_delay_s=None, waiting_weight=weight))
    for entry in [an_entry(a_request(arrived_s=0.0), serving_s=serving_s) for _ in range(2)]:
        queue.add(entry, NO_LIMITS, 0.0)
    for entry in queue.first(2):
        queue.remove(entry, turn_wait_s)
    dear = cost * exp(weight) * (1 / MAX_COST_RATIO if times > 1 else MAX_COST_RATIO)
    old = an_entry(a_request(arrived_s=100.0), dear, serving_s=serving_s)
    queue.add(old, NO_LIMITS, 100.0)
    waited_s = times * (LONGEST_WAIT_DECAY * turn_wait_s + serving_s)
    fresh = an_entry(a_request(arrived_s=100.0 + waited_s), cost, serving_s=serving_s)
    queue.add(fresh, NO_LIMITS, 100.0 + waited_s)
    assert next_of(queue, 100.0 + waited_s).entries[0] is (old if times > 1 else fresh)


@pytest.mark.parametrize(("weight", "first"), [(0.0, 1), (1.0, 1), (2.0, 1), (4.0, 0), (100.0, 0)])
def test_weight_interpolates_between_cheapest_first_and_fcfs(
    a_request: MakeRequest, an_entry: MakeEntry, weight: float, first: int
) -> None:
    queue = a_queue(OrderBounds(max_delay_s=None, waiting_weight=weight))
    both = filled(queue, a_request, an_entry, [4.0, 0.5])
    assert next_of(queue, 9.0).entries == [
        both[first]
    ]  # T is 1 s; the costs differ by 8, e² < 8 < e⁴


def test_waiting_credit_grows_with_the_serving_time_up_to_twice_the_mean(
    a_request: MakeRequest, an_entry: MakeEntry
) -> None:
    queue = a_queue()
    [entry] = filled(queue, a_request, an_entry, [1.0])
    queue.remove(entry, 50.0)
    first, second = filled(queue, a_request, an_entry, [1.0, 1.0])
    queue.remove(first, 50.0)  # the second's turn comes after 49 s
    queue.remove(second, 50.0)
    servings_s = (1.0, 1.0, 3.0, 100.0)
    entries = [an_entry(a_request(arrived_s=55.0), serving_s=s) for s in servings_s]
    for entry in entries:
        queue.add(entry, NO_LIMITS, 55.0)
    short, another, long, longest = entries
    assert next_of(queue, 55.0).entries == [longest, long, short, another]
    assert [55.0 - entry.virtual_arrival_s for entry in (short, another)] == [1.0, 1.0]
    assert 2.0 < 55.0 - long.virtual_arrival_s < 3.0
    assert 30.0 < 55.0 - longest.virtual_arrival_s < 35.0


def test_burst_on_an_idle_engine_is_served_cheapest_first(
    a_request: MakeRequest, an_entry: MakeEntry
) -> None:
    queue = a_queue()
    for cost in (1.0, 50.0, 1.0, 50.0):
        queue.add(an_entry(a_request(arrived_s=5.0), cost, serving_s=cost), NO_LIMITS, 5.0)
    assert [entry.cost for entry in next_of(queue, 6.0).entries] == [1.0, 1.0]


def test_similar_requests_are_dispatched_together_in_order_of_arrival(
    a_request: MakeRequest, an_entry: MakeEntry
) -> None:
    queue = a_queue()
    entries = filled(queue, a_request, an_entry, [1.0] * (MAX_PER_DISPATCH + 3))
    assert next_of(queue, 50.0).entries == entries[:MAX_PER_DISPATCH]


def test_similar_requests_that_arrived_together_are_dispatched_together(
    a_request: MakeRequest, an_entry: MakeEntry
) -> None:
    queue = a_queue()
    for cost in (1.0, 1.0, 1.0, 9.0):
        queue.add(an_entry(a_request(arrived_s=5.0), cost), NO_LIMITS, 5.0)
    assert [entry.cost for entry in next_of(queue, 5.0).entries] == [1.0] * 3


def test_overdue_goes_before_late_and_both_before_rank(
    a_request: MakeRequest, an_entry: MakeEntry
) -> None:
    queue = a_queue(TEN_SECONDS)
    overdue, short = filled(queue, a_request, an_entry, [1e4, 1.0])
    late = an_entry(a_request(arrived_s=2.0, deadline_s=20.0), 1e4)
    queue.add(late, StartLimits(late_s=8.0, unlikely_s=inf, infeasible_s=18.0), 2.0)
    found = [next_of(queue, now_s) for now_s in (7.9, 8.0, 10.0)]
    assert [(c.entries, c.reason) for c in found] == [
        ([short], "rank"),
        ([late], "late"),
        ([overdue], "overdue"),
    ]


def test_late_requests_go_earliest_deadline_first(
    a_request: MakeRequest, an_entry: MakeEntry
) -> None:
    queue = a_queue()
    for deadline_s in (30.0, 10.0, 20.0):
        request = a_request(deadline_s=deadline_s)
        queue.add(an_entry(request), StartLimits(deadline_s - 9, inf, deadline_s - 5), 0.0)
    for _ in range(27):
        queue.add(an_entry(a_request()), NO_LIMITS, 0.0)
    order = []
    for _ in range(3):
        [entry] = next_of(queue, 22.0).entries
        order.append(entry.request.deadline_s)
        queue.remove(entry, 22.0)
        queue.check()
    assert order == [10.0, 20.0, 30.0]


@pytest.mark.parametrize(("others", "first_cost"), [(17, 1.0), (18, 4.0)])
def test_waiting_counts_less_while_more_than_a_tenth_may_miss_their_deadlines(
    a_request: MakeRequest, an_entry: MakeEntry, others: int, first_cost: float
) -> None:
    """The old one has waited T and costs four times as much: less than e³, more than e^0.9."""
    queue = a_queue()
    filled(queue, a_request, an_entry, [1e30, 1e30], StartLimits(5.0, 6.0, inf))
    for _ in range(others - 2):
        queue.add(an_entry(a_request(), 1e30), NO_LIMITS, 1.0)
    old = an_entry(a_request(arrived_s=9.0), 4.0, serving_s=1.0)
    queue.add(old, NO_LIMITS, 9.0)
    queue.add(an_entry(a_request(arrived_s=10.0), 1.0, serving_s=1.0), NO_LIMITS, 10.0)
    assert next_of(queue, 10.0).entries[0].cost == first_cost


def test_turns_come_as_work_starts(a_request: MakeRequest, an_entry: MakeEntry) -> None:
    queue = a_queue()
    turns = log_turns(queue)
    long, short, last = filled(queue, a_request, an_entry, [500.0, 100.0, 300.0])
    queue.remove(last, 4.0)  # 300 of the 500 ahead of the short one
    queue.remove(short, 5.0)
    assert turns == [long]
    queue.remove(long, 7.0)
    assert turns == [long, short, last]
    assert not queue


def test_request_that_started_before_its_turn_is_never_overdue(
    a_request: MakeRequest, an_entry: MakeEntry
) -> None:
    queue = a_queue(TEN_SECONDS)
    long, short = filled(queue, a_request, an_entry, [500.0, 1.0])
    queue.remove(short, 1.0)
    queue.remove(long, 2.0)
    new = an_entry(a_request(arrived_s=95.0))
    queue.add(new, NO_LIMITS, 95.0)
    assert next_of(queue, 99.0) == Candidates([new], "rank")


def test_started_requests_do_not_accumulate_in_the_heap(
    a_request: MakeRequest, an_entry: MakeEntry
) -> None:
    queue = a_queue(OrderBounds(max_delay_s=1e6))
    stays = an_entry(a_request(arrived_s=0.0))
    queue.add(stays, NO_LIMITS, 0.0)
    for place in range(5_000):
        entry = an_entry(a_request(arrived_s=float(place)))
        queue.add(entry, NO_LIMITS, float(place))
        queue.remove(entry, float(place))
        assert len(queue._becoming_overdue._heap) <= 100
    assert next_of(queue, 999_999.0).reason == "rank"
    assert next_of(queue, 1e6) == Candidates([stays], "overdue")


def test_without_a_bound_no_request_is_overdue(a_request: MakeRequest, an_entry: MakeEntry) -> None:
    queue = a_queue(UNBOUND)
    filled(queue, a_request, an_entry, [500.0, 1.0])
    assert next_of(queue, 1e9).reason == "rank"


def test_infeasible_requests_are_returned_once_unless_started(
    a_request: MakeRequest, an_entry: MakeEntry
) -> None:
    queue = a_queue()
    first, second, third = filled(queue, a_request, an_entry, [1.0] * 3, StartLimits(5.0, inf, 9.0))
    queue.remove(first, 6.0)
    assert queue.infeasible(9.0) == []
    assert queue.infeasible(9.1) == [second, third]
    assert queue.infeasible(99.0) == []


def test_empty_classes_are_removed(a_request: MakeRequest, an_entry: MakeEntry) -> None:
    queue = a_queue()
    entries = filled(queue, a_request, an_entry, [1.0, 2.0, 2.0])
    assert len(queue.batches(5.0, by_arrival=False)) == 2
    queue.remove(entries[0], 1.0)
    [left] = queue.batches(5.0, by_arrival=False)
    assert left.first(9) == entries[1:]
    with pytest.raises(KeyError):
        queue.remove(entries[0], 1.0)


def test_gain_per_second_follows_the_recent_response_time_under_fcfs(
    a_request: MakeRequest, an_entry: MakeEntry
) -> None:
    queue = a_queue(OrderBounds(10.0, waiting_weight=6.0))
    assert queue.gain_per_s == 6.0 / MIN_RESPONSE_S
    first, second = filled(queue, a_request, an_entry, [500.0, 1.0])
    assert queue.gain_per_s == pytest.approx(6.0)  # no waits, serving times of 1 s
    queue.remove(first, 12.0)
    assert queue.gain_per_s == pytest.approx(6.0 / 12.0)  # the second one waited 11 s
    queue.remove(second, 20.0)
    queue.add(an_entry(a_request(arrived_s=21.0)), NO_LIMITS, 21.0)
    assert queue.gain_per_s == pytest.approx(6.0 / (11.0 * LONGEST_WAIT_DECAY + 1.0))


def test_withdrawn_requests_count_in_the_response_time_under_fcfs(
    a_request: MakeRequest, an_entry: MakeEntry
) -> None:
    queue = a_queue(OrderBounds(10.0, waiting_weight=6.0))
    first, second = filled(queue, a_request, an_entry, [500.0, 1.0])
    queue.remove(second, 2.0)
    assert queue.gain_per_s == pytest.approx(6.0)
    queue.remove(first, 12.0)
    assert queue.gain_per_s == pytest.approx(6.0 / 12.0)


def test_order_of_two_queued_requests_does_not_change_with_time(
    a_request: MakeRequest, an_entry: MakeEntry
) -> None:
    queue = a_queue(OrderBounds(max_delay_s=None))
    _, cheap = filled(queue, a_request, an_entry, [1e4, 1.0])
    assert {tuple(next_of(queue, now_s).entries) for now_s in (1.0, 1e3, 1e6)} == {(cheap,)}
