"""What of one tenant should go next, against a look at all of them."""

from collections.abc import Callable
from itertools import count
from math import inf, log
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.deadlines import Window
from gateway.scheduling.entry import Entry
from gateway.scheduling.length_class import SHORTEST_WAIT_S, WIDTH, class_of
from gateway.scheduling.tenant_queue import STEEPER, TOGETHER, Bounds, Candidates, TenantQueue
from gateway.scheduling.waiting import Waiting

MakeWaiting = Callable[..., Waiting]
MakeEntry = Callable[..., Entry]
NEVER = Window(inf, inf)
UNBOUND = Bounds(max_delay_s=None)
TEN = Bounds(max_delay_s=10.0)
LIKE = 1e-9
bounds_of = st.builds(
    Bounds,
    max_delay_s=st.sampled_from([None, 0.0, 5.0, 20.0]),
    waiting_power=st.sampled_from([0.0, 0.25, 0.5, 1.0, 4.0]),
    guard_tail=st.booleans(),
)


def a_queue(bounds: Bounds = UNBOUND) -> TenantQueue:
    return TenantQueue(bounds, map("b{}".format, count(1)))


def filled(
    queue: TenantQueue,
    a_request: MakeWaiting,
    an_entry: MakeEntry,
    servings_s: list[float],
    window: Window = NEVER,
) -> list[Entry]:
    """Entries of these serving times, one of them a second."""
    entries = [
        an_entry(a_request(arrived_s=float(place), deadline_s=100.0 + place), serving_s)
        for place, serving_s in enumerate(servings_s)
    ]
    for entry in entries:
        queue.add(entry, window, entry.request.arrived_s)
    queue.check()
    return entries


def next_of(queue: TenantQueue, now_s: float) -> Candidates:
    return queue.next(now_s, by_arrival=False)


def shown(queue: TenantQueue, now_s: float, *, by_arrival: bool) -> list[Entry]:
    """The oldest of each batch."""
    return [batch.first(1)[0] for batch in queue.batches(now_s, by_arrival=by_arrival)]


class Plain:
    """The queue by its definition: every question is a look at every entry."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.all: list[Entry] = []
        self.late_s: dict[int, float] = {}
        self.turn_s: dict[int, float] = {}
        self.started = 0.0

    @property
    def here(self) -> list[Entry]:
        return [entry for entry in self.all if entry.waits]

    @property
    def power(self) -> float:
        """By the last one whose turn came."""
        most_s, turned = self.bounds.max_delay_s, [e for e in self.all if e.serial in self.turn_s]
        if not self.bounds.guard_tail or most_s is None:
            return self.bounds.waiting_power
        waited_s = 0.0
        if turned:
            waited_s = self.turn_s[turned[-1].serial] - turned[-1].request.arrived_s
        overload = min(waited_s / most_s, STEEPER) if most_s else STEEPER
        return self.bounds.waiting_power + overload

    def note_turns(self, now_s: float) -> None:
        before = 0.0
        for entry in self.all:
            if before <= self.started:
                self.turn_s.setdefault(entry.serial, now_s)
            before += entry.work

    def late(self, now_s: float) -> list[Entry]:
        late = [entry for entry in self.here if self.late_s[entry.serial] <= now_s]
        return sorted(late, key=lambda entry: (entry.request.deadline_s, entry.serial))

    def overdue(self, now_s: float) -> list[Entry]:
        if self.bounds.max_delay_s is None:
            return []
        most_s = self.bounds.max_delay_s
        return [
            entry
            for entry in self.here
            if self.turn_s.get(entry.serial, inf) + most_s / entry.request.urgency <= now_s
        ]

    def rank(self, entry: Entry, now_s: float) -> float:
        waited_s = entry.request.urgency * (now_s - entry.request.arrived_s)
        middle = (class_of(entry)[2] + 0.5) * log(WIDTH)
        return self.power * log(max(waited_s, SHORTEST_WAIT_S)) - middle

    def check_all(self, queue: TenantQueue, now_s: float) -> None:
        queue.check()
        assert len(queue) == len(self.here)
        assert {e.serial: e.turn_s for e in self.all if e.turn_s is not None} == self.turn_s
        assert queue.power == self.power
        if self.here:
            for by_arrival in (False, True):
                found = queue.next(now_s, by_arrival=by_arrival)
                self.check(found, now_s, by_arrival=by_arrival)
            ranks = [self.rank(oldest, now_s) for oldest in shown(queue, now_s, by_arrival=False)]
            assert ranks == pytest.approx(sorted(ranks, reverse=True))
            arrived_s = [e.request.arrived_s for e in shown(queue, now_s, by_arrival=True)]
            assert arrived_s == sorted(arrived_s)

    def check(self, found: Candidates, now_s: float, *, by_arrival: bool) -> None:
        late, overdue = self.late(now_s), self.overdue(now_s)
        if late or overdue:
            [entry] = found.entries
            assert entry is (overdue or late)[0]
            assert found.reason == ("overdue" if overdue else "late")
        elif by_arrival:
            oldest = self.here[:TOGETHER]
            others = (n for n, e in enumerate(oldest) if e.request.model != oldest[0].request.model)
            assert found.entries == oldest[: next(others, TOGETHER)]
            assert found.reason == "arrival"
        else:
            assert found.reason == "rank"
            self.check_ranks(found.entries, now_s)

    def check_ranks(self, found: list[Entry], now_s: float) -> None:
        key = class_of(found[0])
        batch = [entry for entry in self.here if class_of(entry) == key]
        others = [self.rank(entry, now_s) for entry in self.here if class_of(entry) != key]
        highest = max(others, default=-inf)
        assert found == batch[: len(found)]
        assert self.rank(found[0], now_s) >= highest - LIKE
        assert all(self.rank(entry, now_s) >= highest - LIKE for entry in found)
        if len(found) < min(len(batch), TOGETHER):
            assert self.rank(batch[len(found)], now_s) <= highest + LIKE


@given(bounds_of, st.integers(0, 100_000), st.sampled_from([0.0, 0.2]))
def test_next_are_the_overdue_then_the_late_then_the_highest(
    a_request: MakeWaiting, an_entry: MakeEntry, bounds: Bounds, seed: int, pressing: float
) -> None:
    random, queue, plain, now_s = Random(seed), a_queue(bounds), Plain(bounds), 0.0
    for _ in range(30):
        now_s += random.choice([0, 0, 1, 2, 5])
        if random.random() < 0.65:
            late_s = now_s + random.randrange(30) if random.random() < pressing else inf
            request = a_request(
                arrived_s=now_s,
                urgency=random.choice([1.0, 1.0, 4.0]),
                model=random.choice(["demo", "demo", "demo", "other"]),
                deadline_s=late_s + random.randrange(20),
            )
            serving_s = random.choice([0.1, 0.11, 0.5, 0.5, 0.6])
            entry = an_entry(request, serving_s, work=float(random.randint(1, 40)))
            plain.late_s[entry.serial] = late_s
            plain.all.append(entry)
            queue.add(entry, Window(late_s, inf), now_s)
        elif plain.here:
            gone = random.choice([next_of(queue, now_s).entries[0], random.choice(plain.here)])
            queue.remove(gone, now_s)
            plain.started += gone.work
        plain.note_turns(now_s)
        plain.check_all(queue, now_s)


def test_old_long_class_overtakes_a_new_short_one(
    a_request: MakeWaiting, an_entry: MakeEntry
) -> None:
    queue = a_queue(Bounds(max_delay_s=None, waiting_power=1.0))
    long, short = an_entry(a_request(arrived_s=0.0), 8.0), an_entry(a_request(arrived_s=90.0), 0.8)
    queue.add(long, NEVER, 0.0)
    queue.add(short, NEVER, 90.0)
    assert next_of(queue, 91.0).entries == [long]
    assert next_of(queue, 110.0).entries == [short]


@pytest.mark.parametrize(("power", "first"), [(0.0, 1), (0.5, 1), (1.0, 0), (8.0, 0)])
def test_power_lies_between_shortest_first_and_first_come_first_served(
    a_request: MakeWaiting, an_entry: MakeEntry, power: float, first: int
) -> None:
    queue = a_queue(Bounds(max_delay_s=None, waiting_power=power))
    both = filled(queue, a_request, an_entry, [4.0, 0.5])
    assert next_of(queue, 1.1).entries == [both[first]]  # waits 1.1 and 0.1: 11 to 1, S is 8 to 1


def test_similar_ones_go_together_oldest_first(a_request: MakeWaiting, an_entry: MakeEntry) -> None:
    queue = a_queue()
    entries = filled(queue, a_request, an_entry, [1.0] * (TOGETHER + 3))
    assert next_of(queue, 50.0).entries == entries[:TOGETHER]


def test_those_that_came_at_once_go_together(a_request: MakeWaiting, an_entry: MakeEntry) -> None:
    queue = a_queue()
    for serving_s in (1.0, 1.0, 1.0, 9.0):
        queue.add(an_entry(a_request(arrived_s=5.0), serving_s), NEVER, 5.0)
    assert [entry.serving_s for entry in next_of(queue, 5.0).entries] == [1.0] * 3


def test_overdue_goes_before_late_and_both_before_rank(
    a_request: MakeWaiting, an_entry: MakeEntry
) -> None:
    queue = a_queue(TEN)
    overdue, short = filled(queue, a_request, an_entry, [1e4, 1.0])
    late = an_entry(a_request(arrived_s=2.0, deadline_s=20.0), 1e4)
    queue.add(late, Window(late_s=8.0, hopeless_s=18.0), 2.0)
    found = [next_of(queue, now_s) for now_s in (7.9, 8.0, 10.0)]
    assert [(c.entries, c.reason) for c in found] == [
        ([short], "rank"),
        ([late], "late"),
        ([overdue], "overdue"),
    ]


def test_late_ones_go_earliest_deadline_first(a_request: MakeWaiting, an_entry: MakeEntry) -> None:
    queue = a_queue()
    for deadline_s in (30.0, 10.0, 20.0):
        request = a_request(deadline_s=deadline_s)
        queue.add(an_entry(request), Window(deadline_s - 9, deadline_s - 5), 0.0)
    order = []
    for _ in range(3):
        [entry] = next_of(queue, 22.0).entries
        order.append(entry.request.deadline_s)
        queue.remove(entry, 22.0)
        queue.check()
    assert order == [10.0, 20.0, 30.0]


def test_turns_come_as_work_starts(a_request: MakeWaiting, an_entry: MakeEntry) -> None:
    queue = a_queue()
    long, short, last = filled(queue, a_request, an_entry, [500.0, 100.0, 300.0])
    queue.remove(last, 4.0)  # 300 of the 500 before the short one
    queue.remove(short, 5.0)
    assert [entry.turn_s for entry in (long, short, last)] == [0.0, None, None]
    queue.remove(long, 7.0)
    assert [entry.turn_s for entry in (long, short, last)] == [0.0, 7.0, 7.0]
    assert not queue


def test_who_started_before_its_turn_is_never_overdue(
    a_request: MakeWaiting, an_entry: MakeEntry
) -> None:
    queue = a_queue(TEN)
    long, short = filled(queue, a_request, an_entry, [500.0, 1.0])
    queue.remove(short, 1.0)
    queue.remove(long, 2.0)
    new = an_entry(a_request(arrived_s=95.0))
    queue.add(new, NEVER, 95.0)
    assert next_of(queue, 99.0) == Candidates([new], "rank")


def test_those_that_started_are_forgotten_long_before_they_were_overdue(
    a_request: MakeWaiting, an_entry: MakeEntry
) -> None:
    queue = a_queue(Bounds(max_delay_s=1e6))
    stays = an_entry(a_request(arrived_s=0.0))
    queue.add(stays, NEVER, 0.0)
    for place in range(5_000):
        entry = an_entry(a_request(arrived_s=float(place)))
        queue.add(entry, NEVER, float(place))
        queue.remove(entry, float(place))
        assert len(queue._put_back) <= 100
    assert next_of(queue, 999_999.0).reason == "rank"
    assert next_of(queue, 1e6) == Candidates([stays], "overdue")


def test_without_a_bound_nobody_is_overdue(a_request: MakeWaiting, an_entry: MakeEntry) -> None:
    queue = a_queue(UNBOUND)
    filled(queue, a_request, an_entry, [500.0, 1.0])
    assert next_of(queue, 1e9).reason == "rank"


def test_hopeless_are_told_once_and_not_once_started(
    a_request: MakeWaiting, an_entry: MakeEntry
) -> None:
    queue = a_queue()
    first, second, third = filled(queue, a_request, an_entry, [1.0] * 3, Window(5.0, 9.0))
    queue.remove(first, 6.0)
    assert list(queue.hopeless(9.0)) == []
    assert list(queue.hopeless(9.1)) == [second, third]
    assert list(queue.hopeless(99.0)) == []


def test_classes_that_emptied_are_gone(a_request: MakeWaiting, an_entry: MakeEntry) -> None:
    queue = a_queue()
    entries = filled(queue, a_request, an_entry, [1.0, 2.0, 2.0])
    assert len(queue.batches(5.0, by_arrival=False)) == 2
    queue.remove(entries[0], 1.0)
    [left] = queue.batches(5.0, by_arrival=False)
    assert left.first(9) == entries[1:]
    with pytest.raises(KeyError):
        queue.remove(entries[0], 1.0)


@pytest.mark.parametrize(
    ("bounds", "added"),
    [
        (Bounds(20.0, 0.5, guard_tail=False), 0.0),
        (Bounds(None, 0.5, guard_tail=True), 0.0),
        (Bounds(20.0, 0.5, guard_tail=True), 1.5),
        (Bounds(5.0, 0.25, guard_tail=True), STEEPER),
        (Bounds(0.0, 0.5, guard_tail=True), STEEPER),
    ],
)
def test_guarded_tail_lets_waiting_weigh_more_the_longer_turns_take(
    bounds: Bounds, added: float
) -> None:
    assert bounds.power(30.0) == bounds.waiting_power + added


def test_power_falls_again_once_the_queue_was_empty(
    a_request: MakeWaiting, an_entry: MakeEntry
) -> None:
    queue = a_queue(Bounds(10.0, 0.5, guard_tail=True))
    long, short = filled(queue, a_request, an_entry, [500.0, 1.0])
    queue.remove(long, 16.0)
    assert queue.power == 0.5 + 1.5
    queue.remove(short, 20.0)
    queue.add(an_entry(a_request(arrived_s=21.0)), NEVER, 21.0)
    assert queue.power == 0.5
