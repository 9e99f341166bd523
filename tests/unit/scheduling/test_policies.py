"""What every policy promises, under any sequence of arrivals, withdrawals and dispatches."""

from collections.abc import Callable
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.admission import Capacity, admissible
from gateway.scheduling.policies import LOOKAHEAD, NAMES, Policy, PolicyName, build_policy
from gateway.scheduling.waiting import Running, Waiting

MakeWaiting: TypeAlias = Callable[..., Waiting]
PAGES, PAGE, Z, MAX_DELAY_S = 100, 8, 2.0, 20.0
KV_TOKENS = PAGES * PAGE
names = st.sampled_from(NAMES)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("arrive"), st.integers(1, 300), st.integers(1, 200)),
        st.tuples(st.just("withdraw"), st.integers(0, 30), st.just(0)),
        st.tuples(st.just("dispatch"), st.integers(0, 15), st.integers(0, 6)),
        st.tuples(st.just("observe"), st.integers(1, 30), st.integers(1, 100)),
        st.tuples(st.just("resize"), st.integers(1, 120), st.integers(1, 32)),
    ),
    max_size=50,
)


def a_policy(name: PolicyName, waste_limit: float = 2_000) -> Policy:
    policy = build_policy(name, waste_limit=waste_limit, max_delay_s=MAX_DELAY_S, admission_z=Z)
    policy.resize(PAGES, PAGE)
    return policy


class Scene:
    """A policy, the truth about who waits and runs, and a clock."""

    def __init__(self, policy: Policy, a_request: MakeWaiting) -> None:
        self.policy, self.a_request = policy, a_request
        self.capacity = Capacity(PAGES, PAGE, Z)
        self.now_s = 0.0
        self.waiting: dict[str, Waiting] = {}
        self.running: list[Running] = []
        self.batches: set[str] = set()

    def act(self, action: str, first: int, second: int) -> None:
        getattr(self, action)(first, second)
        self.policy.check()
        listed = [request for batch in self.policy.waiting() for request in batch.requests]
        assert len(self.policy) == len(listed) == len(self.waiting)
        assert {request.id: request for request in listed} == self.waiting

    def arrive(self, prompt: int, generation: int) -> None:
        request = self.a_request(prompt, generation, arrived_s=self.now_s)
        self.policy.arrive(request)
        self.waiting[request.id] = request

    def withdraw(self, place: int, _: int) -> None:
        known = [*self.waiting, "unknown"]
        request_id = known[place % len(known)]
        assert self.policy.withdraw(request_id) == (request_id in self.waiting)
        self.waiting.pop(request_id, None)

    def observe(self, size: int, seconds: int) -> None:
        self.policy.observe(size, 10 * size, 40.0, seconds / 10)

    def resize(self, pages: int, page_tokens: int) -> None:
        self.policy.resize(pages, page_tokens)
        self.capacity = Capacity(pages, page_tokens, Z)

    def dispatch(self, passed_s: int, stay: int) -> None:
        self.now_s += passed_s
        self.running = self.running[:stay]
        found = self.policy.dispatch(self.running, self.now_s)
        if found is None:
            assert self.nothing_fits()
            return
        assert found.requests
        assert found.batch not in self.batches
        assert len({request.model for request in found.requests}) == 1
        assert admissible(found.requests, self.running, self.capacity) == len(found.requests) or (
            len(found.requests) == 1 and not self.running
        )
        self.batches.add(found.batch)
        for request in found.requests:
            assert self.waiting.pop(request.id) == request
            self.running.append(request.started())

    def nothing_fits(self) -> bool:
        oldest = min(self.waiting.values(), key=lambda r: r.arrived_s, default=None)
        if oldest is None:
            return True
        overdue = self.now_s - oldest.arrived_s > MAX_DELAY_S
        if self.policy.name == "fixed":
            return bool(self.running)
        heads = [batch.requests[0] for batch in self.policy.waiting()]
        if self.policy.name != "lmaas":
            return bool(self.running) and any(self.blocked(head) for head in heads)
        if overdue or len(heads) > LOOKAHEAD:
            return bool(self.running)
        return bool(self.running) and all(self.blocked(head) for head in heads)

    def blocked(self, request: Waiting) -> bool:
        return admissible([request], self.running, self.capacity) == 0


@given(names, actions)
def test_no_request_is_lost_or_doubled_and_no_engine_idle(
    a_request: MakeWaiting, name: PolicyName, drawn: list[tuple[str, int, int]]
) -> None:
    scene = Scene(a_policy(name), a_request)
    for action in drawn:
        scene.act(*action)
    while scene.waiting:
        scene.act("dispatch", 1, 0)
    assert scene.policy.dispatch([], scene.now_s) is None


@pytest.mark.parametrize(("name", "order"), [("fcfs", "abc"), ("sjf", "cab"), ("hrrn", "cab")])
def test_baselines_dispatch_in_their_order(
    a_request: MakeWaiting, name: PolicyName, order: str
) -> None:
    policy = a_policy(name)
    policy.arrive(a_request(generation=40, arrived_s=0.0, request_id="a"))
    policy.arrive(a_request(generation=80, arrived_s=1.0, request_id="b"))
    policy.arrive(a_request(generation=4, arrived_s=2.0, request_id="c"))
    found = [policy.dispatch([], 10.0) for _ in order]
    assert "".join(dispatch.requests[0].id for dispatch in found if dispatch) == order


def test_similar_requests_go_together(a_request: MakeWaiting) -> None:
    policy = a_policy("lmaas")
    for generation in (10, 100, 11, 101):
        policy.arrive(a_request(generation=generation))
    assert [len(batch.requests) for batch in policy.waiting()] == [2, 2]
    found = policy.dispatch([], 1.0)
    assert found is not None
    assert sorted(request.median for request in found.requests) == [10, 11]


def test_what_does_not_fit_of_a_batch_keeps_waiting(a_request: MakeWaiting) -> None:
    policy = a_policy("lmaas", waste_limit=1e9)
    for number in range(8):
        policy.arrive(a_request(80, 60, arrived_s=float(number)))
    found = policy.dispatch([], 9.0)
    assert found is not None
    assert 1 < len(found.requests) < 8
    assert [request.arrived_s for request in found.requests] == [
        *map(float, range(len(found.requests)))
    ]
    assert len(policy) == 8 - len(found.requests)
    assert policy.waiting()[0].id != found.batch


def test_overdue_requests_go_first_oldest_first_across_batches(a_request: MakeWaiting) -> None:
    policy = a_policy("lmaas", waste_limit=500)
    for number, generation in enumerate((150, 5, 140, 4)):
        policy.arrive(a_request(20, generation, arrived_s=float(number), request_id=f"old{number}"))
    policy.arrive(a_request(1, 1, arrived_s=22.0))
    found = policy.dispatch([], 3.5 + MAX_DELAY_S)
    assert found is not None
    assert found.overdue
    assert found.waited_s == 3.5 + MAX_DELAY_S
    started = [request.id for request in found.requests]
    assert started == [f"old{number}" for number in range(len(started))]


@given(st.integers(0, 1000))
def test_long_request_starts_though_short_ones_never_cease(
    a_request: MakeWaiting, seed: int
) -> None:
    policy, running = a_policy("lmaas"), list[Running]()
    long = a_request(500, 150, arrived_s=0.0, request_id="long", max_tokens=250)
    policy.arrive(long)
    for second in range(1, 60):
        for number in range(4):
            policy.arrive(a_request(60 + seed % 40 + number, 20, arrived_s=float(second)))
        running = running[4:]  # the oldest have ended
        while (found := policy.dispatch(running, float(second))) is not None:
            running += [request.started() for request in found.requests]
            if "long" in {request.id for request in found.requests}:
                assert second <= MAX_DELAY_S + 1 + KV_TOKENS / 60
                return
    pytest.fail("the long request starved")


def test_nothing_passes_an_overdue_request_that_does_not_fit(a_request: MakeWaiting) -> None:
    policy = a_policy("lmaas", waste_limit=1)
    running = [a_request(400, 40).started()]
    policy.arrive(a_request(500, 150, arrived_s=0.0, request_id="large"))
    policy.arrive(a_request(10, 5, arrived_s=5.0, request_id="small"))
    passed = policy.dispatch(running, 10.0)
    assert passed is not None
    assert [request.id for request in passed.requests] == ["small"]
    policy.arrive(a_request(10, 5, arrived_s=5.0))
    assert policy.dispatch(running, MAX_DELAY_S + 1) is None
    alone = policy.dispatch([], MAX_DELAY_S + 2)
    assert alone is not None
    assert [request.id for request in alone.requests] == ["large"]


@pytest.mark.parametrize("name", NAMES)
def test_resized_pool_is_filled_and_no_more(a_request: MakeWaiting, name: PolicyName) -> None:
    started = []
    for pages in (20, 200):
        policy, running = a_policy(name), list[Running]()
        for _ in range(8):
            policy.arrive(a_request(40, 20, max_tokens=20))
        policy.resize(pages, 8)
        while (found := policy.dispatch(running, 1.0)) is not None:
            running += [request.started() for request in found.requests]
        assert len(policy) + len(running) == 8
        started.append(len(running))
    assert 1 <= started[0] <= 3
    assert started[1] == 8


def test_grown_pool_lets_requests_join_batches_that_were_full(a_request: MakeWaiting) -> None:
    policy = a_policy("lmaas", waste_limit=1e9)
    policy.resize(10, 8)
    for pages, batches in ((10, 1), (10, 2), (100, 2)):
        policy.resize(pages, 8)
        policy.arrive(a_request(40, 20))
        assert len(policy.waiting()) == batches


def test_request_too_large_for_the_pool_is_left_to_the_idle_engine(a_request: MakeWaiting) -> None:
    policy = a_policy("lmaas")
    policy.arrive(a_request(5_000, 100))
    assert policy.dispatch([a_request(10, 5).started()], 1.0) is None
    assert policy.dispatch([], 1.0) is not None


def test_models_never_share_a_dispatch(a_request: MakeWaiting) -> None:
    policy = a_policy("lmaas")
    for number in range(4):
        policy.arrive(a_request(5, 5, model="ab"[number % 2], arrived_s=float(number)))
    for now_s in (5.0, 5.0, 40.0):
        found = policy.dispatch([], now_s)
        assert found is None or len({request.model for request in found.requests}) == 1


def test_batch_names_come_from_the_given_counter(a_request: MakeWaiting) -> None:
    policy = build_policy(
        "fcfs",
        waste_limit=0,
        max_delay_s=1,
        admission_z=0,
        ids=iter(["first", "second"]),
    )
    policy.arrive(a_request())
    found = policy.dispatch([], 0.0)
    assert found is not None
    assert found.batch == "first"


def test_learned_serving_time_changes_the_order(a_request: MakeWaiting) -> None:
    policy = a_policy("hrrn")
    policy.arrive(a_request(300, 10, arrived_s=0.0, request_id="long prompt"))
    policy.arrive(a_request(10, 60, arrived_s=0.0, request_id="long answer"))
    for size in range(1, 40):  # an engine on which prompts are dear and steps nearly free
        policy.observe(size, 10 * size, 400.0 / size, 0.1 * size * size)
    policy.check()
    found = policy.dispatch([], 5.0)
    assert found is not None
    assert found.requests[0].id == "long answer"


def test_unknown_policy_is_refused() -> None:
    with pytest.raises(KeyError):
        a_policy("lifo")  # type: ignore[arg-type]
