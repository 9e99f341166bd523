"""Properties of every policy, under any sequence of events."""

from collections.abc import Callable, Sequence
from itertools import islice
from math import ceil
from random import Random
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.generation.insight.estimates import expected_turns
from gateway.scheduling.admission.future_peak import FuturePeak
from gateway.scheduling.admission.interface import AdmissionName
from gateway.scheduling.admission.reservation import SumOfReservations
from gateway.scheduling.baselines.base import FcfsPolicy
from gateway.scheduling.control_loop import ControlLoop
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.lmaas.output_lengths import MIN_ANSWERS
from gateway.scheduling.lmaas.policy import MAX_SHORT_QUEUE, LmaasPolicy
from gateway.scheduling.lmaas.tenant_queue import OrderBounds
from gateway.scheduling.policy import (
    POLICY_NAMES,
    Options,
    Policy,
    PolicyName,
    build_policy,
    is_lockstep,
)
from gateway.scheduling.requests import QueuedRequest, RunningSequence
from tests.unit.scheduling.test_lazy_heap import Counted

MakeRequest: TypeAlias = Callable[..., QueuedRequest]
PAGES, PAGE = 100, 8
OPTIONS = Options(waste_share=0.7, max_delay_s=20.0, fixed_batch=4)
LOCKSTEP: tuple[PolicyName, ...] = ("magnus", "magnus-fcfs", "fixed-predicted", "fixed")
HIGH_WEIGHT = replace(OPTIONS, waiting_weight=10.0)
CHEAPEST = replace(OPTIONS, waiting_weight=0.0)
RULES: tuple[AdmissionName, ...] = ("peak", "reserved", "maximum", "held")
actions = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(1, 300), st.integers(1, 200)),
        st.tuples(st.just("arrive"), st.integers(1, 60), st.integers(1, 20)),
        st.tuples(st.just("withdraw"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("dispatch"), st.integers(0, 15), st.just(0)),
        st.tuples(st.just("dispatch"), st.just(0), st.just(0)),
        st.tuples(st.just("step"), st.integers(1, 12), st.just(0)),
        st.tuples(st.just("end"), st.integers(0, 9), st.integers(0, 300)),
        st.tuples(st.just("give_up"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("trust"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("observe"), st.integers(1, 30), st.integers(1, 100)),
        st.tuples(st.just("resize"), st.integers(1, 120), st.integers(1, 32)),
        st.tuples(st.just("halve"), st.just(0), st.just(0)),
        st.tuples(st.just("revise"), st.integers(0, 30), st.integers(1, 200)),
    ),
    max_size=50,
)


def a_policy(name: PolicyName, options: Options = OPTIONS) -> Policy:
    policy = build_policy(name, options)
    policy.resize(PAGES, PAGE)
    return policy


class PolicyDriver:
    """A policy, the true sets of queued and running requests, and a clock."""

    def __init__(self, policy: Policy, a_request: MakeRequest) -> None:
        self.policy, self.a_request = policy, a_request
        self.now_s = 0.0
        self.arrived: dict[str, QueuedRequest] = {}
        self.waiting: dict[str, QueuedRequest] = {}
        self.running: dict[str, RunningSequence] = {}
        self.halved: set[str] = set()

    def act(self, action: str, first: int, second: int) -> None:
        getattr(self, action)(first, second)
        self.policy.check()
        batches = list(self.policy.waiting(self.now_s))
        listed = [r for batch in batches for r in batch.requests]
        assert self.policy.batches == len(batches)
        assert [batch.size for batch in batches] == [len(batch.requests) for batch in batches]
        assert len(self.policy) == len(listed) == len(self.waiting)
        assert {request.id: request for request in listed} == self.waiting
        assert self.policy.admission.empty == (not self.running)

    def arrive(self, prompt: int, generation: int) -> None:
        pressing = prompt % 4 == 0
        request = self.a_request(
            prompt,
            generation,
            arrived_s=self.now_s,
            tenant="abc"[generation % 3],
            share=(1.0, 3.0)[prompt % 2],
            urgency=(1.0, 2.0, 0.5)[prompt % 3],
            deadline_s=self.now_s + generation / 2 if pressing else None,
            start_by_s=self.now_s + prompt / 5 if prompt % 5 == 0 else None,
        )
        self.policy.arrive(request)
        self.waiting[request.id] = self.arrived[request.id] = request

    def withdraw(self, place: int, _: int) -> None:
        known = [*self.waiting, *self.running, "unknown"]
        request_id = known[place % len(known)]
        assert self.policy.withdraw(request_id) == (request_id in self.waiting)
        self.waiting.pop(request_id, None)

    def revise(self, place: int, generation: int) -> None:
        known = [*self.waiting, *self.running]
        if not known:
            return
        request_id = known[place % len(known)]
        quantiles = self.a_request(generation=generation).quantiles
        revised = replace(self.arrived[request_id], quantiles=quantiles)
        self.arrived[request_id] = revised
        self.policy.revise([revised, self.a_request(request_id="unknown")])
        if request_id in self.waiting:
            self.waiting[request_id] = revised
        else:
            self.running[request_id] = replace(self.running[request_id], quantiles=quantiles)
            self.policy.admission.outdate()

    def step(self, steps: int, _: int) -> None:
        self.policy.admission.advance(steps)
        self.running = {key: after(steps, sequence) for key, sequence in self.running.items()}

    def end(self, place: int, generated: int) -> None:
        if self.running:
            request_id = list(self.running)[place % len(self.running)]
            del self.running[request_id]
            self.policy.ended(self.arrived[request_id], generated, self.now_s)

    def give_up(self, passed_s: int, _: int) -> None:
        self.now_s += passed_s
        for request in self.policy.give_up(self.now_s):
            assert self.waiting.pop(request.id) == request
            assert request.deadline_s is not None or request.start_by_s is not None
        knows_deadlines = self.policy.name == "lmaas"
        new = [request for key, request in self.waiting.items() if key not in self.halved]
        for request in new:  # the halves had started in time
            ends_s = [request.start_by_s, request.deadline_s if knows_deadlines else None]
            assert all(end_s is None or end_s >= self.now_s for end_s in ends_s)

    def trust(self, trusted: int, _: int) -> None:
        self.policy.trust(bool(trusted))

    def observe(self, size: int, seconds: int) -> None:
        self.policy.observe(size, 10 * size, 40.0, seconds / 10)

    def resize(self, pages: int, page_tokens: int) -> None:
        self.policy.resize(pages, page_tokens)

    def halve(self, *_: int) -> None:
        policy = self.policy
        if is_lockstep(policy) and self.running:
            requests = [
                replace(self.arrived[key], generated=sequence.generated)
                for key, sequence in self.running.items()
            ]
            self.arrived.update({request.id: request for request in requests})
            policy.halve(requests)
            self.waiting.update({request.id: request for request in requests})
            self.halved |= self.running.keys()
            self.running.clear()

    def dispatch(self, passed_s: int, _: int) -> None:
        self.now_s += passed_s
        if self.policy.admission.stale:
            self.policy.admission.refresh(list(self.running.values()))
        found = self.policy.dispatch(self.now_s)
        if found is None:
            assert self.running or not self.waiting
            return
        self.take(found)
        admission = self.policy.admission
        by_steps = not self.policy.lockstep  # a whole batch starts whether it fits or not
        if isinstance(admission, FuturePeak) and len(self.running) > 1 and by_steps:
            assert peak_of(admission) <= admission.capacity.pages

    def take(self, found: Dispatch) -> None:
        assert found.requests
        waited_s = max(self.now_s - request.arrived_s for request in found.requests)
        assert found.waited_s == waited_s
        assert found.ratio == pytest.approx(1 + waited_s / found.serving_s)
        for request in found.requests:
            assert self.waiting.pop(request.id) == request
            self.running[request.id] = request.started()

    def drain(self) -> None:
        """Dispatch and end everything that is queued."""
        while self.waiting:
            while self.running:
                self.act("end", 0, 7)
            self.act("dispatch", 1, 0)


def peak_of(admission: FuturePeak) -> float:
    """Mean + z·sd of the peak page use until all running sequences finish."""
    return admission._peak(admission._ahead.mean, admission._ahead.variance)


def after(steps: int, sequence: RunningSequence) -> RunningSequence:
    generated = min(sequence.generated + steps, sequence.max_tokens - 1)
    return RunningSequence(
        sequence.id, sequence.prompt_tokens, generated, sequence.quantiles, sequence.max_tokens
    )


@pytest.mark.parametrize("name", POLICY_NAMES)
@settings(max_examples=60)
@given(drawn=actions)
def test_no_request_is_lost_or_doubled_and_no_engine_idle(
    a_request: MakeRequest, name: PolicyName, drawn: list[tuple[str, int, int]]
) -> None:
    driver = PolicyDriver(a_policy(name), a_request)
    for action in drawn:
        driver.act(*action)
    driver.drain()
    assert driver.policy.dispatch(driver.now_s) is None


@settings(max_examples=60)
@given(drawn=actions, options=st.sampled_from([OPTIONS, HIGH_WEIGHT]), seed=st.integers(0, 1_000))
def test_policy_stays_consistent_while_trust_changes(
    a_request: MakeRequest, drawn: list[tuple[str, int, int]], options: Options, seed: int
) -> None:
    random, driver = Random(seed), PolicyDriver(a_policy("lmaas", options), a_request)
    for _ in range(MIN_ANSWERS):  # enough for the distribution of recent answers
        driver.act("arrive", 2, 10)
        driver.act("dispatch", 0, 0)
        driver.act("end", 0, random.randint(0, 300))
    for action in drawn:
        driver.act("trust", random.randint(0, 1), 0)
        driver.act(*action)
        if driver.policy.order == "policy":
            assert len(driver.waiting) > MAX_SHORT_QUEUE
    driver.drain()


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=30)
@given(drawn=actions, name=st.sampled_from(POLICY_NAMES))
def test_every_policy_works_with_every_admission_rule(
    a_request: MakeRequest,
    rule: AdmissionName,
    name: PolicyName,
    drawn: list[tuple[str, int, int]],
) -> None:
    driver = PolicyDriver(a_policy(name, Options(admission=rule, max_delay_s=None)), a_request)
    for action in drawn:
        driver.act(*action)
    driver.drain()


@pytest.mark.parametrize(
    ("name", "order"), [("fcfs", "abc"), ("sjf", "cab"), ("hrrn", "cab"), ("lmaas", "cab")]
)
def test_policies_dispatch_in_their_order(
    a_request: MakeRequest, name: PolicyName, order: str
) -> None:
    policy = build_policy(name, CHEAPEST)  # without memory: one at a time
    policy.arrive(a_request(generation=40, arrived_s=0.0, request_id="a"))
    policy.arrive(a_request(generation=80, arrived_s=1.0, request_id="b"))
    policy.arrive(a_request(generation=4, arrived_s=2.0, request_id="c"))
    assert sent_one_by_one(policy, 10.0) == list(order)


def sent_one_by_one(policy: Policy, now_s: float) -> list[str]:
    order = []
    while (found := policy.dispatch(now_s)) is not None:
        for request in found.requests:
            order.append(request.id)
            policy.ended(request, 1, now_s)
    return order


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_resized_pool_is_filled_and_no_more(a_request: MakeRequest, name: PolicyName) -> None:
    started = []
    for pages in (20, 200):
        policy = a_policy(name, Options(fixed_batch=8))
        policy.resize(pages, 8)
        for _ in range(8):
            policy.arrive(a_request(40, 20, max_tokens=20))
        running = 0
        while (found := policy.dispatch(1.0)) is not None:
            running += len(found.requests)
        assert len(policy) + running == 8
        started.append(running)
    keeps_size = name.startswith("fixed")
    assert 1 <= started[0] <= 3 or (keeps_size and started[0] == 8)
    assert started[1] == 8


def test_conservative_continuous_runs_few_at_once_and_fills_up(a_request: MakeRequest) -> None:
    policy = a_policy("conservative-continuous", Options(fixed_batch=3))
    for place in range(6):
        policy.arrive(a_request(5, 5, max_tokens=5, arrived_s=float(place), request_id=str(place)))
    assert [request.id for _ in range(3) for request in sent(policy, 9.0)] == ["0", "1", "2"]
    assert policy.dispatch(9.0) is None
    policy.ended(a_request(request_id="1"), 5, 9.0)
    assert [request.id for request in sent(policy, 9.0)] == ["3"]
    assert policy.dispatch(9.0) is None
    policy.resize(PAGES, PAGE, 2)  # the engine's own limit, which is lower
    for request_id in ("0", "2"):
        policy.ended(a_request(request_id=request_id), 5, 9.0)
    assert sent(policy, 9.0)
    assert policy.dispatch(9.0) is None


@pytest.mark.parametrize("name", [name for name in POLICY_NAMES if name != "lmaas"])
def test_order_of_arrival_is_no_fallback_where_it_is_the_policy(name: PolicyName) -> None:
    loop = ControlLoop(a_policy(name))
    assert loop.fallback is None
    loop.trust(False)
    assert loop.fallback is None


@pytest.mark.parametrize("name", LOCKSTEP)
def test_idle_engine_in_lock_step_starts_what_there_is(
    a_request: MakeRequest, name: PolicyName
) -> None:
    policy, lone = a_policy(name), a_request()
    policy.arrive(lone)
    assert sent(policy, 0.0) == (lone,)


@pytest.mark.parametrize("name", ["lmaas", "fcfs"])
def test_the_front_of_a_long_queue_is_read_without_putting_all_in_order(
    name: PolicyName, a_request: MakeRequest
) -> None:
    policy, rng, number = a_policy(name), Random(4), 10_000
    for place in range(number):
        policy.arrive(a_request(50, rng.randint(5, 90), arrived_s=Counted(place)))
    Counted.compared = 0
    turns = list(islice(expected_turns(policy.waiting(float(number)), 4, 0.0), 50))
    compared = Counted.compared
    assert [turn.position for turn in turns] == list(range(1, 51))
    assert 0 < compared < 1.5 * number  # putting them in order takes about n·log n
    ordered = list(islice(expected_turns(policy.waiting(float(number)), 4, 0.0), 50))
    assert [turn.request.id for turn in ordered] == [turn.request.id for turn in turns]


def test_limit_on_waste_is_that_of_the_options(a_request: MakeRequest) -> None:
    together = {}
    for options in (Options(waste_share=0.1), Options(waste_share=0.5),
                    Options(waste_share=0.1, waste_reads=2_500.0)):  # fmt: skip
        policy = a_policy("magnus", options)
        for generation in (20, 30):  # T = 1,190 and 1,935 token reads: 38 % are wasted
            policy.arrive(a_request(50, generation))
        together[options] = policy.batches == 1
    assert list(together.values()) == [False, True, True]


def end_all(policy: Policy, requests: Sequence[QueuedRequest]) -> None:
    for request in requests:
        policy.ended(request, 1, 15.0)


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_request_past_its_maximum_queue_time_is_given_up_once(
    a_request: MakeRequest, name: PolicyName
) -> None:
    policy = a_policy(name)
    requests = [a_request(arrived_s=0.0, start_by_s=float(9 - place)) for place in range(6)]
    unlimited = a_request(arrived_s=0.0)
    for request in (*requests, unlimited):
        policy.arrive(request)
    assert policy.withdraw(requests[3].id)
    assert policy.give_up(5.0) == [requests[5]]
    assert policy.give_up(5.0) == []
    assert policy.give_up(8.5) == [requests[4], requests[2], requests[1]]
    policy.check()
    assert len(policy) == 2
    end_all(policy, sent(policy, 9.0))
    policy.give_up(99.0)
    assert {r.id for batch in policy.waiting(99.0) for r in batch.requests} <= {unlimited.id}


def sent(policy: Policy, now_s: float) -> Sequence[QueuedRequest]:
    found = policy.dispatch(now_s)
    assert found is not None
    return found.requests


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_request_queued_again_keeps_its_queue_time(
    a_request: MakeRequest, name: PolicyName
) -> None:
    policy, request = a_policy(name), a_request(start_by_s=9.0)
    for generation in (10.0, 20.0, 10.0):
        again = replace(request, quantiles=(generation,) * 6)
        policy.arrive(again)
        assert policy.withdraw(request.id)
    policy.arrive(again)
    assert policy.give_up(9.5) == [again]
    assert policy.give_up(9.5) == []


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_queue_times_of_started_requests_do_not_accumulate(
    a_request: MakeRequest, name: PolicyName
) -> None:
    policy = a_policy(name)
    for _ in range(1_000):
        policy.arrive(a_request(5, 5, start_by_s=1e6))
        end_all(policy, sent(policy, 1.0))
    if isinstance(policy, FcfsPolicy):
        assert len(policy._expiring._heap) <= 100
    else:
        assert isinstance(policy, LmaasPolicy)
        [queue] = policy._tenants.values()
        assert len(queue._deadlines._becoming_infeasible._heap) <= 100


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_same_id_cannot_wait_twice(a_request: MakeRequest, name: PolicyName) -> None:
    policy, request = a_policy(name), a_request()
    policy.arrive(request)
    with pytest.raises(ValueError, match="waits already"):
        policy.arrive(request)
    policy.check()
    assert len(policy) == 1


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_request_too_large_for_the_pool_is_left_to_the_idle_engine(
    a_request: MakeRequest, name: PolicyName
) -> None:
    policy, small = a_policy(name), a_request(10, 5)
    policy.arrive(small)
    assert policy.dispatch(0.0) is not None
    policy.arrive(a_request(5_000, 100))
    assert policy.dispatch(1.0) is None
    policy.ended(small, 5, 1.0)
    assert policy.dispatch(1.0) is not None


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_policy_is_built_with_its_own_rule_and_mode(name: PolicyName) -> None:
    own = {
        "s3": "reserved",
        "conservative-continuous": "maximum",
        **dict.fromkeys(LOCKSTEP, "held"),
    }
    policy = a_policy(name)
    assert policy.name == name
    assert is_lockstep(policy) == (name in LOCKSTEP) == hasattr(policy, "halve")
    if name in own:
        assert isinstance(policy.admission, SumOfReservations)
        assert policy.admission._reservation == own[name]
    else:
        assert isinstance(policy.admission, FuturePeak)


@pytest.mark.parametrize("rule", RULES)
def test_admission_rule_can_be_set(a_request: MakeRequest, rule: AdmissionName) -> None:
    admission = a_policy("fcfs", Options(admission=rule)).admission
    request = a_request(generation=20, max_tokens=100)
    reserved = {"peak": 20, "reserved": ceil(request.p90), "maximum": 100, "held": 1}
    assert admission.reserve(request) == reserved[rule]
    assert isinstance(admission, FuturePeak) == (rule == "peak")


def test_default_policy_follows_its_options(a_request: MakeRequest) -> None:
    options = {
        "arrival": Options(max_delay_s=0.0, waiting_weight=100.0),
        "weighty": Options(max_delay_s=None, waiting_weight=100.0),
        "bounded": Options(max_delay_s=6.0, waiting_weight=0.0),
        "later": Options(max_delay_s=8.0, waiting_weight=0.0),
        "cheapest": Options(max_delay_s=None, waiting_weight=0.0),
    }
    orders = {name: order_of(a_request, each) for name, each in options.items()}
    assert orders == {  # the last two go by arrival: a short queue
        "arrival": "abcdef",
        "weighty": "abcdef",
        "bounded": "faedbc",
        "later": "feadbc",
        "cheapest": "fedcab",
    }


def test_bounds_of_the_default_policy_are_those_of_its_options() -> None:
    policy = build_policy("lmaas", Options(max_delay_s=7.0, waiting_weight=0.3))
    assert isinstance(policy, LmaasPolicy)
    assert policy._bounds == OrderBounds(7.0, 0.3)


def order_of(a_request: MakeRequest, options: Options) -> str:
    """Six requests, each shorter than the previous one; one starts every two seconds."""
    policy, order, now_s = build_policy("lmaas", options), "", 5.0
    for place, (name, generation) in enumerate(zip("abcdef", (160, 80, 40, 20, 8, 3), strict=True)):
        arrived_s = float(place)
        policy.arrive(a_request(generation=generation, arrived_s=arrived_s, request_id=name))
    while (found := policy.dispatch(now_s)) is not None:
        [request] = found.requests
        order += request.id
        now_s += 2.0
        policy.ended(request, 1, now_s)
    return order


def test_unknown_policy_is_refused() -> None:
    with pytest.raises(KeyError):
        a_policy("lifo")  # type: ignore[arg-type]
