"""The default policy's order, against its definition: rank, deadlines, bounds, arrival."""

from collections.abc import Callable
from itertools import count
from math import log
from random import Random
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.quantiles import LEVELS
from gateway.scheduling.admission.future_peak import FuturePeak
from gateway.scheduling.admission.interface import Capacity
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.lmaas.cost import request_cost, risk_adjusted_length
from gateway.scheduling.lmaas.cost_class import MAX_COST_RATIO, ClassKey, QueueEntry, class_key
from gateway.scheduling.lmaas.deadlines import start_limits
from gateway.scheduling.lmaas.output_lengths import ANSWERS_PER_UPDATE, MIN_ANSWERS
from gateway.scheduling.lmaas.policy import MAX_SHORT_QUEUE, LmaasPolicy
from gateway.scheduling.lmaas.tenant_queue import OrderBounds, TenantQueue
from gateway.scheduling.requests import Quantiles, QueuedRequest, RunningSequence
from gateway.scheduling.serving_time import ServingTime

MakeRequest: TypeAlias = Callable[..., QueuedRequest]
MakeEntry: TypeAlias = Callable[..., QueueEntry]
UNBOUND = OrderBounds(max_delay_s=None)
CHEAPEST = OrderBounds(max_delay_s=None, waiting_weight=0.0)
MAX_DELAY_S = 20.0
weights = st.sampled_from([0.0, 0.5, 2.0, 10.0])
sizes = st.tuples(st.integers(1, 300), st.integers(1, 200), st.sampled_from([0.5, 1.0, 2.0]))
actions = st.lists(
    st.tuples(st.floats(0, 10), st.one_of(st.none(), sizes, sizes)), min_size=5, max_size=50
)


def a_policy(pages: int = 0, bounds: OrderBounds = UNBOUND, z: float = 2.0) -> LmaasPolicy:
    """Without pages it dispatches one request at a time."""
    policy = LmaasPolicy("lmaas", admission=FuturePeak(z), bounds=bounds)
    policy.resize(pages, 8)
    return policy


def serving_s(request: QueuedRequest) -> float:
    return ServingTime().estimate(1, request.prompt_tokens, risk_adjusted_length(request))


def cost(request: QueuedRequest) -> float:
    return request_cost(request.prompt_tokens, risk_adjusted_length(request))


def dispatched(policy: LmaasPolicy, now_s: float) -> Dispatch:
    found = policy.dispatch(now_s)
    assert found is not None
    return found


def ids(found: Dispatch) -> list[str]:
    return [request.id for request in found.requests]


def sent(policy: LmaasPolicy, now_s: float) -> QueuedRequest:
    """Dispatch the next request and end it."""
    [request] = dispatched(policy, now_s).requests
    policy.ended(request, 1, now_s)
    return request


class RankReference:
    """The weight of waiting, from a queue with the same requests."""

    def __init__(self, weight: float, make: MakeEntry) -> None:
        self.queue = TenantQueue(OrderBounds(None, weight), map("q{}".format, count(1)))
        self.make = make
        self.entries: dict[str, QueueEntry] = {}

    def arrive(self, request: QueuedRequest) -> None:
        entry = self.make(request, cost(request), serving_s=serving_s(request))
        self.entries[request.id] = entry
        self.queue.add(entry, start_limits(request, float), request.arrived_s)

    def start(self, request: QueuedRequest, now_s: float) -> None:
        self.queue.remove(self.entries.pop(request.id), now_s)

    def of(self, request: QueuedRequest, now_s: float) -> float:
        """Logarithm of the factor of 1/cost in a rank."""
        waited_s = now_s - self.entries[request.id].virtual_arrival_s
        return self.queue.gain_per_s * request.urgency * waited_s + log(request.urgency)


@given(actions, weights)
def test_highest_rank_goes_next_up_to_the_width_of_a_class(
    a_request: MakeRequest,
    an_entry: MakeEntry,
    drawn: list[tuple[float, tuple[int, int, float] | None]],
    weight: float,
) -> None:
    policy, reference = a_policy(bounds=OrderBounds(None, weight)), RankReference(weight, an_entry)
    waiting, now_s = dict[str, QueuedRequest](), 0.0
    for passed_s, new in drawn:
        now_s += passed_s
        if new is not None:
            request = a_request(*new[:2], arrived_s=now_s, urgency=new[2])
            policy.arrive(request)
            reference.arrive(request)
            waiting[request.id] = request
        elif len(waiting) > MAX_SHORT_QUEUE:
            ranks = {r.id: reference.of(r, now_s) - log(cost(r)) for r in waiting.values()}
            found = sent(policy, now_s)
            assert ranks[found.id] + log(MAX_COST_RATIO) >= max(ranks.values()) - 1e-9
            reference.start(found, now_s)
            del waiting[found.id]
    policy.check()


@given(actions, weights)
def test_first_of_the_highest_class_goes_next(
    a_request: MakeRequest,
    an_entry: MakeEntry,
    drawn: list[tuple[float, tuple[int, int, float] | None]],
    weight: float,
) -> None:
    def key_of(request: QueuedRequest) -> ClassKey:
        return class_key(an_entry(request, cost(request)))

    policy, reference = a_policy(bounds=OrderBounds(None, weight)), RankReference(weight, an_entry)
    waiting, now_s = list[QueuedRequest](), 0.0
    for passed_s, new in drawn:
        now_s += passed_s
        if new is not None:
            waiting.append(a_request(*new[:2], arrived_s=now_s))
            policy.arrive(waiting[-1])
            reference.arrive(waiting[-1])
        elif len(waiting) > MAX_SHORT_QUEUE:
            order = sorted(
                waiting, key=lambda request: reference.entries[request.id].virtual_arrival_s
            )
            first = {key_of(request): request for request in reversed(order)}
            ranks = {
                key: reference.of(request, now_s) - (key[1] + 0.5) * log(MAX_COST_RATIO)
                for key, request in first.items()
            }
            found = sent(policy, now_s)
            assert first[key_of(found)] is found
            assert ranks[key_of(found)] == pytest.approx(max(ranks.values()))
            reference.start(found, now_s)
            waiting.remove(found)


def test_lower_weight_is_nearer_to_cheapest_first(a_request: MakeRequest) -> None:
    first = []
    for weight in (40.0, 0.4, 0.1, 0.0):
        policy = a_policy(bounds=OrderBounds(None, weight))
        policy.arrive(a_request(generation=160, arrived_s=0.0, request_id="old"))
        policy.arrive(a_request(generation=40, arrived_s=0.1, request_id="middle"))
        policy.arrive(a_request(generation=5, arrived_s=4.0, request_id="new"))
        first.append(sent(policy, 5.0).id)
    assert first == ["old", "middle", "new", "new"]


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 200)), min_size=1, max_size=12))
def test_requests_go_in_order_of_arrival_while_not_trusted(
    a_request: MakeRequest, drawn: list[tuple[int, int]]
) -> None:
    policy = a_policy()
    policy.trust(trusted=False)
    requests = [a_request(p, g, arrived_s=float(n)) for n, (p, g) in enumerate(drawn)]
    for request in requests:
        policy.arrive(request)
    assert [sent(policy, 50.0) for _ in requests] == requests


def test_fallback_is_reported_and_reverted(a_request: MakeRequest) -> None:
    policy = a_policy(pages=200, bounds=CHEAPEST)
    for place, generation in enumerate((90, 5, 90, 5, 90, 5)):
        policy.arrive(a_request(generation=generation, arrived_s=float(place)))
    assert policy.order == "policy"
    policy.trust(trusted=False)
    assert policy.order == "arrival"
    policy.trust(trusted=True)
    assert policy.order == "policy"
    found = dispatched(policy, 9.0)
    assert found.reason == "rank"
    assert {request.median for request in found.requests} == {5.0}


@given(
    st.lists(
        st.integers(0, 300), min_size=MIN_ANSWERS, max_size=MIN_ANSWERS + 3 * ANSWERS_PER_UPDATE
    ),
    st.booleans(),
)
def test_untrusted_requests_are_distributed_like_recent_answers(
    a_request: MakeRequest, lengths: list[int], trusted_at_first: bool
) -> None:
    policy, runs = a_policy(pages=2_000), [a_request(60, 5), a_request(10, 150)]
    assert policy.admission.admit(runs) == 2
    policy.trust(trusted=trusted_at_first)
    for tokens in lengths:
        ended = a_request(generation=9)
        policy.admission.force(ended)
        policy.ended(ended, tokens, 1.0)
    policy.trust(trusted=False)
    known = lengths[: len(lengths) - len(lengths) % ANSWERS_PER_UPDATE]
    low, lower, middle, upper, high, highest = np.quantile(known, LEVELS).tolist()
    all_assumed = [
        running_with(request, (low, lower, middle, upper, high, highest)) for request in runs
    ]
    assert peak_of(policy, [request.started() for request in runs]) == exact_peak(all_assumed)
    policy.trust(trusted=True)
    running = [request.started() for request in runs]
    assert peak_of(policy, running) == exact_peak(running)


def test_too_few_answers_change_no_lengths(a_request: MakeRequest) -> None:
    policy, running = a_policy(pages=2_000), [a_request(60, 5).started()]
    policy.trust(trusted=False)
    for _ in range(MIN_ANSWERS - 1):
        policy.ended(a_request(), 150, 1.0)
    assert peak_of(policy, running) == exact_peak(running)
    policy.ended(a_request(), 150, 1.0)
    assert peak_of(policy, running) > exact_peak(running)


def running_with(request: QueuedRequest, quantiles: Quantiles) -> RunningSequence:
    return RunningSequence(request.id, request.prompt_tokens, 0, quantiles, request.max_tokens)


def peak_of(policy: LmaasPolicy, running: list[RunningSequence]) -> float:
    assert isinstance(policy.admission, FuturePeak)
    return peak_once_refreshed(policy.admission, running)


def exact_peak(running: list[RunningSequence]) -> float:
    admission = FuturePeak(2.0)
    admission.resize(Capacity(2_000, 8))
    return peak_once_refreshed(admission, running)


def peak_once_refreshed(admission: FuturePeak, running: list[RunningSequence]) -> float:
    admission.refresh(running)
    return admission._peak(admission._ahead.mean, admission._ahead.variance)


def test_short_queue_is_served_in_order_of_arrival(a_request: MakeRequest) -> None:
    policy = a_policy(bounds=CHEAPEST)
    for place, generation in enumerate((90, 5, 5)):
        policy.arrive(a_request(generation=generation, arrived_s=float(place)))
    assert policy.order == "policy"
    assert sent(policy, 9.0).median == 5
    assert policy.order == "arrival"
    found = dispatched(policy, 9.0)
    assert ([r.median for r in found.requests], found.reason) == ([90], "arrival")


def test_similar_requests_are_dispatched_together(a_request: MakeRequest) -> None:
    policy = a_policy(pages=200, bounds=CHEAPEST)
    for place, generation in enumerate((10, 100, 10, 101)):
        policy.arrive(a_request(generation=generation, arrived_s=place / 100))
    assert [len(batch.requests) for batch in policy.waiting(50.0)] == [2, 2]
    assert [request.median for request in dispatched(policy, 50.0).requests] == [10, 10]


def test_batch_is_as_old_as_its_oldest_member_even_if_another_is_first(
    a_request: MakeRequest,
) -> None:
    policy = a_policy()
    for _ in range(2):
        policy.arrive(a_request(arrived_s=0.0))
    for _ in range(2):
        sent(policy, 0.5)
    shorter, longer = (
        a_request(generation=40, arrived_s=1.0),
        a_request(generation=44, arrived_s=1.01),
    )
    for request in (shorter, longer, a_request(generation=180, arrived_s=2.0)):
        policy.arrive(request)
    [batch] = [batch for batch in policy.waiting(9.0) if len(batch.requests) > 1]
    assert batch.requests == (longer, shorter)
    assert batch.ratio == pytest.approx(1 + 8.0 / batch.serving_s)


def test_members_of_a_batch_that_do_not_fit_stay_queued(a_request: MakeRequest) -> None:
    policy = a_policy(pages=100)
    for place in range(8):
        policy.arrive(a_request(80, 60, arrived_s=float(place)))
    found = dispatched(policy, 9.0)
    assert 1 < len(found.requests) < 8
    started = len(found.requests)
    assert [request.arrived_s for request in found.requests] == [*map(float, range(started))]
    assert len(policy) == 8 - started


def test_nothing_passes_an_overdue_request_that_does_not_fit(a_request: MakeRequest) -> None:
    policy = a_policy(pages=100, bounds=OrderBounds(MAX_DELAY_S, waiting_weight=0.0))
    runs = a_request(400, 40)
    policy.arrive(runs)
    dispatched(policy, 0.0)
    policy.arrive(a_request(500, 150, arrived_s=0.0, request_id="large"))
    for _ in range(6):
        policy.arrive(a_request(10, 5, arrived_s=5.0))
    passed = dispatched(policy, 10.0)
    assert "large" not in ids(passed)
    for _ in range(3):
        policy.arrive(a_request(10, 5, arrived_s=12.0))
    assert policy.dispatch(MAX_DELAY_S + 0.1) is None
    for request in (*passed.requests, runs):
        policy.ended(request, 5, 22.0)
    found = dispatched(policy, 22.0)
    assert (ids(found), found.reason, found.overdue) == (["large"], "overdue", True)


@pytest.mark.parametrize("tenant", ["t", "another"])
def test_nothing_passes_the_highest_rank_that_does_not_fit(
    a_request: MakeRequest, tenant: str
) -> None:
    policy, runs = a_policy(pages=100), a_request(400, 40)
    policy.arrive(runs)
    dispatched(policy, 0.0)
    for place in range(3):
        policy.arrive(a_request(600, 100, arrived_s=1.0, request_id=f"large {place}"))
    policy.shares.charge("t", -1_000.0)  # its turn, regardless of other tenants
    policy.arrive(a_request(10, 5, arrived_s=999.9, tenant=tenant))
    assert policy.dispatch(1_000.0) is None
    policy.ended(runs, 5, 1_001.0)
    assert ids(dispatched(policy, 1_001.0)) == ["large 0"]


@given(st.integers(0, 10_000), st.booleans())
def test_dispatched_are_the_next_requests_that_fit(
    a_request: MakeRequest, seed: int, trusted: bool
) -> None:
    random, policy = Random(seed), a_policy(pages=60, bounds=OrderBounds(MAX_DELAY_S))
    policy.trust(trusted=trusted)
    running, now_s = list[QueuedRequest](), 0.0
    for _ in range(40):
        now_s += random.expovariate(0.5)
        size = random.randint(1, 200), random.choice([3, 5, 100])
        policy.arrive(a_request(*size, arrived_s=now_s, tenant=random.choice("ab")))
        if running and random.random() < 0.6:
            policy.ended(running.pop(random.randrange(len(running))), 5, now_s)
        for _ in range(random.randrange(3)):
            tenant = policy.shares.lowest()
            if tenant is None:
                break
            by_arrival = policy.order == "arrival"
            following = policy._tenants[tenant].next(now_s, by_arrival=by_arrival)
            expected = [entry.request for entry in following.entries]
            copy = FuturePeak(2.0)
            copy.resize(Capacity(60, 8))
            copy.refresh([request.started() for request in running])
            fitting = copy.admit(expected) or int(not running)
            policy.admission.refresh([request.started() for request in running])
            found = policy.dispatch(now_s)
            assert (list(found.requests) if found else []) == expected[:fitting]
            assert found is None or found.reason == following.reason
            running += expected[:fitting]


def test_late_requests_go_first_by_earliest_deadline(a_request: MakeRequest) -> None:
    policy = a_policy()
    for deadline_s in (60.0, 59.93, 59.96):
        policy.arrive(a_request(500, 190, deadline_s=deadline_s))
    for _ in range(29):
        policy.arrive(a_request(5, 5))
    assert sent(policy, 1.0).deadline_s is None
    late_s = 60.0 - ServingTime().estimate(1, 500, 200)
    reasons = [dispatched(policy, late_s)]
    policy.ended(reasons[0].requests[0], 1, late_s)
    assert (reasons[0].requests[0].deadline_s, reasons[0].reason) == (59.93, "late")
    assert [sent(policy, late_s).deadline_s for _ in range(3)] == [59.96, 60.0, None]


def test_many_late_requests_go_by_rank(a_request: MakeRequest) -> None:
    policy = a_policy()
    for _ in range(2):
        policy.arrive(a_request(500, 190, deadline_s=60.0))
    for _ in range(4):
        policy.arrive(a_request(5, 5))
    late_s = 60.0 - ServingTime().estimate(1, 500, 200)
    assert dispatched(policy, late_s).reason == "rank"


@given(st.integers(0, 10_000))
def test_infeasible_requests_are_given_up_once_and_never_start(
    a_request: MakeRequest, seed: int
) -> None:
    random, policy, now_s = Random(seed), a_policy(), 0.0
    infeasible_s: dict[str, float] = {}
    waiting: set[str] = set()
    for _ in range(60):
        now_s += random.expovariate(2.0)
        deadline_s = random.choice([None, now_s + random.uniform(0, 15)])
        start_by_s = random.choice([None, now_s + random.uniform(0, 15)])
        request = a_request(
            random.randint(1, 100),
            random.randint(1, 200),
            arrived_s=now_s,
            deadline_s=deadline_s,
            start_by_s=start_by_s,
            tenant=random.choice("ab"),
        )
        policy.arrive(request)
        waiting.add(request.id)
        infeasible_s[request.id] = start_limits(
            request, lambda tokens, p=request.prompt_tokens: ServingTime().estimate(1, p, tokens)
        ).infeasible_s
        given_up = [each.id for each in policy.give_up(now_s)]
        assert sorted(given_up) == sorted(name for name in waiting if infeasible_s[name] < now_s)
        waiting.difference_update(given_up)
        if waiting and random.random() < 0.5:
            started = sent(policy, now_s).id
            assert infeasible_s[started] >= now_s
            waiting.remove(started)
        policy.check()
        assert len(policy) == len(waiting)


@given(st.integers(0, 10_000))
def test_predictions_make_requests_infeasible_only_while_trusted(
    a_request: MakeRequest, seed: int
) -> None:
    random, policy = Random(seed), a_policy()
    waiting, now_s, trusted = dict[str, QueuedRequest](), 0.0, True
    for _ in range(30):
        now_s += random.expovariate(1.0)
        deadline_s, start_by_s = (random.choice([None, now_s + random.uniform(0, 9)]) for _ in "ab")
        request = a_request(
            generation=random.randint(1, 200),
            arrived_s=now_s,
            deadline_s=deadline_s,
            start_by_s=start_by_s,
            tenant=random.choice("ab"),
        )
        policy.arrive(request)
        waiting[request.id] = request
        if random.random() < 0.4:
            trusted = not trusted
            policy.trust(trusted)
        ends_s = {
            r.id: start_limits(
                r,
                lambda n, p=r.prompt_tokens: ServingTime().estimate(1, p, n),
                trusted=trusted,
            ).infeasible_s
            for r in waiting.values()
        }
        given_up = {each.id for each in policy.give_up(now_s)}
        assert given_up == {name for name, end_s in ends_s.items() if end_s < now_s}
        waiting = {name: r for name, r in waiting.items() if name not in given_up}


def test_request_without_deadline_is_never_given_up(a_request: MakeRequest) -> None:
    policy = a_policy()
    policy.arrive(a_request(arrived_s=0.0))
    assert policy.give_up(1e9) == []


def test_most_urgent_goes_first(a_request: MakeRequest) -> None:
    policy = a_policy()
    for urgency in (1.0, 2.0, 0.5, 1.0):
        policy.arrive(a_request(urgency=urgency))
    assert sent(policy, 5.0).urgency == 2.0


def test_request_dispatched_by_another_policy_ends_without_a_charge(a_request: MakeRequest) -> None:
    policy, foreign = a_policy(), a_request()
    policy.admission.force(foreign)
    policy.ended(foreign, 30, 1.0)
    assert policy.admission.empty
    assert policy.shares.counter("t") == 0.0
