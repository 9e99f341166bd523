"""Both lanes in one control loop: the batch lane gets what the interactive one leaves."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.scheduling.admission.future_peak import FuturePeak
from gateway.scheduling.admission.interface import Capacity
from gateway.scheduling.control_loop import ControlLoop
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.policy import POLICY_NAMES, Options, PolicyName, build_policy
from gateway.scheduling.requests import QueuedRequest, RunningSequence, SharedPrefix

MakeRequest: TypeAlias = Callable[..., QueuedRequest]
PAGES, PAGE = 60, 8
CONTINUOUS: tuple[PolicyName, ...] = (
    "lmaas", "hrrn", "sjf", "fcfs", "s3", "conservative-continuous")  # fmt: skip
LOCKSTEP = tuple(name for name in POLICY_NAMES if name not in CONTINUOUS)
PREFIXES = [None, SharedPrefix("a", 5 * PAGE), SharedPrefix("b", 12 * PAGE)]
arrivals = st.lists(
    st.tuples(
        st.sampled_from(["interactive", "batch", "batch"]),
        st.integers(0, 12),  # steps since the one before
        st.integers(1, 120),  # own prompt tokens
        st.integers(1, 60),  # length
        st.integers(0, 2),  # tenant, prefix
    ),
    max_size=40,
)


class Gateway:
    """A control loop with an engine in which every sequence generates one token a step."""

    def __init__(self, name: PolicyName, pages: int = PAGES) -> None:
        self.loop = ControlLoop(build_policy(name, Options(fixed_batch=3)))
        self.loop.resize(pages, PAGE)
        self.lengths: dict[str, int] = {}
        self.requests: dict[str, QueuedRequest] = {}
        self.began: dict[str, int] = {}
        self.starts: list[tuple[int, str, str]] = []  # step, lane, id
        self.forced: set[str] = set()

    @property
    def now_s(self) -> float:
        return float(self.loop.steps)

    def arrive(self, request: QueuedRequest, length: int) -> None:
        self.lengths[request.id] = length
        self.requests[request.id] = request
        self.loop.arrive(request)

    def running(self) -> list[RunningSequence]:
        return [
            replace(self.requests[key].started(), generated=self.loop.steps - began)
            for key, began in self.began.items()
        ]

    def step(self) -> None:
        self.loop.advance(1)
        over = [k for k, began in self.began.items() if self.loop.steps - began >= self.lengths[k]]
        for key in over:
            del self.began[key]
            self.loop.ended(self.requests[key], self.lengths[key], self.now_s)
        self.loop.policy.check()
        self.loop.batch_lane.queue.check()

    def decide(self) -> list[Dispatch]:
        found = []
        while (dispatch := self.loop.dispatch(self.now_s, self.running)) is not None:
            found.append(dispatch)
            lanes = {request.lane for request in dispatch.requests}
            assert len(lanes) == 1
            if lanes == {"batch"}:
                assert not len(self.loop.policy)
                if not self.began:
                    self.forced = {request.id for request in dispatch.requests}
            for request in dispatch.requests:
                self.began[request.id] = self.loop.steps
                self.starts.append((self.loop.steps, request.lane, request.id))
        return found

    def run(self, arriving: Sequence[tuple[int, QueuedRequest, int]], until: int) -> None:
        """Run with these arrivals (step, request, length) until a step, or until all ended."""
        left = list(arriving)
        while self.loop.steps < until:
            while left and left[0][0] <= self.loop.steps:
                _, request, length = left.pop(0)
                self.arrive(request, length)
            self.decide()
            if not left and not self.began and not self.loop.waiting:
                return
            self.step()
        raise AssertionError(f"{self.loop.waiting} requests still wait, {len(self.began)} run")

    def order(self, lane: str) -> list[tuple[int, str]]:
        return [(step, key) for step, each, key in self.starts if each == lane]


def drawn_requests(
    a_request: MakeRequest, drawn: Sequence[tuple[str, int, int, int, int]]
) -> list[tuple[int, QueuedRequest, int]]:
    requests, step = [], 0
    for place, (lane, passed, own, length, kind) in enumerate(drawn):
        step += passed
        prefix = PREFIXES[kind] if lane == "batch" else None
        request = a_request(
            own + (prefix.tokens if prefix else 0),
            length,
            tenant="xyz"[kind],
            arrived_s=float(step),
            lane=lane,
            prefix=prefix,
            request_id=f"{lane} {place}",
        )
        requests.append((step, request, length))
    return requests


@pytest.mark.parametrize("name", CONTINUOUS)
@settings(max_examples=25)
@given(drawn=arrivals)
def test_interactive_requests_start_as_if_there_were_no_batch_lane(
    a_request: MakeRequest, name: PolicyName, drawn: list[tuple[str, int, int, int, int]]
) -> None:
    both, alone = Gateway(name), Gateway(name)
    arriving = drawn_requests(a_request, drawn)
    both.run(arriving, 20_000)
    alone.run([each for each in arriving if each[1].lane == "interactive"], 20_000)
    assert both.order("interactive") == alone.order("interactive")
    assert len(both.order("batch")) == sum(each[0] == "batch" for each in drawn)


@pytest.mark.parametrize("name", LOCKSTEP)
@settings(max_examples=25)
@given(drawn=arrivals)
def test_in_lock_step_all_run_and_no_batch_mixes_lanes(
    a_request: MakeRequest, name: PolicyName, drawn: list[tuple[str, int, int, int, int]]
) -> None:
    gateway = Gateway(name)
    gateway.run(drawn_requests(a_request, drawn), 20_000)
    assert len(gateway.starts) == len(drawn)
    assert gateway.loop.policy.admission.empty


@settings(max_examples=60)
@given(drawn=arrivals, pins=st.sets(st.integers(1, 2)))
def test_batch_start_keeps_the_expected_use_within_the_pool(
    a_request: MakeRequest, drawn: list[tuple[str, int, int, int, int]], pins: set[int]
) -> None:
    gateway = Gateway("lmaas")
    admission = gateway.loop.batch_lane.admission
    assert isinstance(admission, FuturePeak)
    admission.z = 1.0  # for what is known only after the last refresh
    pinned = [prefix for kind in pins if (prefix := PREFIXES[kind])]
    for prefix in pinned:
        gateway.loop.pin(prefix)
    for _, request, length in drawn_requests(a_request, drawn):
        gateway.arrive(request, length)
        first = not gateway.began
        for dispatch in gateway.decide():
            if dispatch.requests[0].lane == "batch" and not first:
                expected = FuturePeak(0.0)
                expected.resize(Capacity(PAGES, PAGE))
                for prefix in pinned:
                    expected.pin(prefix)
                expected.refresh(gateway.running())
                assert expected._ahead.mean.max() <= PAGES * 1.001
            first = False
        gateway.step()


def test_lines_start_in_order_and_alternate_between_tenants(a_request: MakeRequest) -> None:
    gateway = Gateway("lmaas", pages=8)
    for tenant in "ab":
        for place in range(6):
            line = a_request(20, 10, lane="batch", tenant=tenant, request_id=f"{tenant}{place}")
            gateway.arrive(line, 10)
    gateway.run([], 1_000)
    started = [key for _, key in gateway.order("batch")]
    assert [key for key in started if key[0] == "a"] == [f"a{place}" for place in range(6)]
    assert {key[0] for key in started[:4]} == {"a", "b"}


def test_nothing_passes_a_line_that_does_not_fit(a_request: MakeRequest) -> None:
    gateway = Gateway("lmaas", pages=20)
    gateway.arrive(a_request(80, 40, lane="batch", max_tokens=60), 40)
    gateway.decide()
    gateway.arrive(a_request(140, 10, lane="batch", max_tokens=20, request_id="large"), 10)
    gateway.arrive(a_request(1, 1, lane="batch", max_tokens=1, request_id="small"), 1)
    assert gateway.decide() == []
    gateway.run([], 1_000)
    assert [key for _, key in gateway.order("batch")][1:] == ["large", "small"]


def test_line_larger_than_the_pool_starts_alone(a_request: MakeRequest) -> None:
    gateway = Gateway("lmaas", pages=10)
    gateway.arrive(a_request(500, 10, lane="batch", request_id="huge"), 10)
    [dispatch] = gateway.decide()
    assert [request.id for request in dispatch.requests] == ["huge"]


def test_batch_lane_waits_while_anything_interactive_waits(a_request: MakeRequest) -> None:
    gateway = Gateway("lmaas", pages=20)
    gateway.arrive(a_request(100, 40, max_tokens=60), 40)
    gateway.decide()
    gateway.arrive(a_request(140, 10, max_tokens=20, request_id="waits"), 10)
    gateway.arrive(a_request(1, 1, max_tokens=1, lane="batch", request_id="line"), 1)
    assert gateway.decide() == []
    assert gateway.loop.waiting == 2


def test_lines_past_their_deadline_are_given_up(a_request: MakeRequest) -> None:
    loop = Gateway("lmaas").loop
    late = a_request(lane="batch", deadline_s=5.0)
    kept = a_request(lane="batch", deadline_s=50.0)
    for request in (late, kept, a_request(lane="batch")):
        loop.arrive(request)
    assert loop.give_up(6.0) == [late]
    assert loop.give_up(6.0) == []
    assert loop.waiting == 2
    loop.withdraw(kept.id)
    assert loop.waiting == 1


def test_halves_of_a_batch_lane_batch_start_first_and_apart(a_request: MakeRequest) -> None:
    gateway = Gateway("magnus", pages=1_000)
    for place in range(4):
        gateway.arrive(a_request(20, 10, lane="batch", request_id=f"line {place}"), 10)
    [dispatch] = gateway.decide()
    assert len(dispatch.requests) == 4
    gateway.arrive(a_request(20, 10, lane="batch", request_id="later"), 10)
    gateway.began.clear()
    assert gateway.loop.halve([replace(each, generated=3) for each in dispatch.requests])
    assert gateway.loop.waiting == 5
    [half] = gateway.decide()
    assert len(half.requests) == 2
    gateway.run([], 1_000)
    assert gateway.order("batch")[-1][1] == "later"


@pytest.mark.parametrize(("before", "after"), [("lmaas", "fixed"), ("fixed", "lmaas")])
def test_change_of_policy_keeps_the_lane(
    a_request: MakeRequest, before: PolicyName, after: PolicyName
) -> None:
    gateway = Gateway(before, pages=20)
    waiting = [a_request(60, 20, lane="batch", request_id=f"line {p}") for p in range(6)]
    for request in waiting:
        gateway.arrive(request, 20)
    gateway.decide()
    queued = [request for request in waiting if request.id not in gateway.began]
    gateway.loop.use(build_policy(after, Options(fixed_batch=2)), queued, gateway.running())
    assert gateway.loop.waiting == len(queued)
    gateway.run([], 2_000)
    assert [key for _, key in gateway.order("batch")] == [request.id for request in waiting]


def test_lane_leaves_what_interactive_arrivals_took_lately(a_request: MakeRequest) -> None:
    def lines_at_once(interactive: int) -> int:
        gateway = Gateway("lmaas", pages=100)
        lane = gateway.loop.batch_lane
        gateway.arrive(a_request(20, 10, lane="batch", max_tokens=10), 10)
        gateway.run([], 1_000)
        for place in range(interactive):
            gateway.arrive(a_request(100, 10, max_tokens=10, request_id=f"i{place}"), 10)
        gateway.run([], 1_000)
        gateway.loop.advance(10)
        for _ in range(40):
            gateway.arrive(a_request(20, 10, lane="batch", max_tokens=10), 10)
        gateway.decide()
        return len(lane.running)

    alone = lines_at_once(0)
    assert alone >= 25  # of four pages each at their end
    assert lines_at_once(3) < lines_at_once(1) < alone


def test_lane_runs_as_many_as_the_engine_finds_useful_and_max_running_bounds_the_other(
    a_request: MakeRequest,
) -> None:
    gateway = Gateway("fcfs", pages=1000)
    loop = gateway.loop
    loop.resize(1000, PAGE, 3)

    def running_after_decision() -> tuple[int, int]:
        gateway.decide()
        lines = len(loop.batch_lane.running)
        return lines, len(gateway.began) - lines

    for _ in range(20):
        gateway.arrive(a_request(lane="batch"), 50)
    assert running_after_decision() == (3, 0)
    loop.limit_batch(7)
    assert running_after_decision() == (7, 0)
    for _ in range(5):
        gateway.arrive(a_request(), 50)
    assert running_after_decision() == (7, 3)
    loop.limit_batch(2)  # those that run stay
    assert running_after_decision() == (7, 3)
    loop.limit_batch(None)
    gateway.run([], 1_000)
    assert not gateway.began


def test_shares_and_room_ignore_batch_sequences(a_request: MakeRequest) -> None:
    gateway = Gateway("lmaas", pages=200)
    for place in range(6):
        gateway.arrive(a_request(40, 30, lane="batch", tenant="b", request_id=f"l{place}"), 30)
    gateway.decide()
    gateway.arrive(a_request(20, 30, tenant="i"), 30)
    gateway.decide()
    assert gateway.loop.over_share(gateway.running()) == frozenset()
    gateway.loop.pin(SharedPrefix("p", 3 * PAGE))
    held = gateway.loop.held(gateway.running())
    assert (held.private, held.pinned) == (6 * 5 + 3, 3)


def test_prompt_shorter_than_its_prefix_is_refused(a_request: MakeRequest) -> None:
    loop = Gateway("lmaas").loop
    with pytest.raises(ValueError, match="prefix"):
        loop.arrive(a_request(10, lane="batch", prefix=SharedPrefix("p", 16)))
    request = a_request(20, lane="batch", prefix=SharedPrefix("p", 16))
    loop.arrive(request)
    with pytest.raises(ValueError, match="waits already"):
        loop.arrive(request)
