"""Host memory or waiting: the delays of both, and what the control loop makes of them."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.scheduling.admission.interface import Capacity
from gateway.scheduling.admission.prices import EngineCost, LinearStepTime
from gateway.scheduling.control_loop import ControlLoop
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.host_choice import (
    StepTimes,
    compare,
    delays,
    fetched_by_prompt,
    steps_until_room,
)
from gateway.scheduling.host_lane import HostCosts, HostLane, RowCost
from gateway.scheduling.lmaas.cost import expected_length
from gateway.scheduling.policy import Options, PolicyName, build_policy
from gateway.scheduling.requests import QueuedRequest, RunningSequence
from tests.unit.scheduling.conftest import MakeRequest

PAGE_TOKENS = 16
COST = EngineCost(LinearStepTime(10e-3, 1e-4, 1e-3, 1e-6), 512)
CHEAP = HostCosts(
    {"host-exact": RowCost(0.0, 1e-3, 1e-6), "host-speculative": RowCost(0.0, 2e-3, 0.0)}, 1e-6
)
DEAR = HostCosts({"host-exact": RowCost(0.0, 1.0, 1e-3)}, 1e-3)
ORDERED: list[PolicyName] = ["lmaas", "hrrn", "sjf", "fcfs", "s3", "conservative-continuous"]

times = st.floats(0.0, 1.0)
counts = st.integers(0, 4)


def certain(length: float) -> tuple[float, ...]:
    return (length,) * 6


def running(prompt: int, left: int, name: str = "r") -> RunningSequence:
    """One that ends after this number of steps."""
    return RunningSequence(name, prompt, 0, certain(left), left)


@given(
    step=st.builds(StepTimes, times, times, times),
    length=st.integers(1, 6),
    prompt_s=times,
    wait_steps=counts,
    on_device=st.integers(1, 4),
    on_host=counts,
    queued=counts,
)
def test_delays_are_those_of_every_request_in_every_step(
    step: StepTimes,
    length: int,
    prompt_s: float,
    wait_steps: int,
    on_device: int,
    on_host: int,
    queued: int,
) -> None:
    waiting_s = sum(step.now_s for _ in range(wait_steps))
    on_host_s = 0.0
    for _ in range(length):
        for _ in range(1 + on_device + on_host):
            waiting_s += step.on_device_s
            on_host_s += step.on_host_s
        for _ in range(queued):
            waiting_s += step.now_s / on_device
            on_host_s += step.on_host_s
    on_host_s += sum(prompt_s for _ in range(1 + on_device + on_host + queued))
    found = delays(
        step,
        length=length,
        prompt_s=prompt_s,
        wait_steps=wait_steps,
        on_device=on_device,
        on_host=on_host,
        queued=queued,
    )
    assert found == pytest.approx((waiting_s, on_host_s))
    assert found.host_pays == (found.on_host_s < found.waiting_s)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 15)), min_size=1, max_size=5),
    st.integers(1, 12),
)
def test_room_is_awaited_until_it_stays(present: list[tuple[int, int]], pages: int) -> None:
    capacity = Capacity(pages=20, page_tokens=4)
    sequences = [running(prompt, left, str(n)) for n, (prompt, left) in enumerate(present)]

    def used(step: int) -> int:
        return sum(-(-(p + step) // 4) for p, left in present if step <= left)

    first = next(
        step
        for step in range(20)
        if all(used(later) + pages <= capacity.pages for later in range(step, 40))
    )
    assert steps_until_room(sequences, pages, capacity) == max(first, 1)


RESULTS = json.loads((Path(__file__).parents[3] / "benchmarks/results/I3.json").read_bytes())
MEASURED = {(row["full fetch over step"], row["memory"]): row for row in RESULTS["rows"]}


@pytest.mark.parametrize("placement", ["host-exact", "host-speculative"])
def test_the_choice_is_what_was_measured_to_be_faster(placement: str) -> None:
    """Eight answers of 128 tokens arrive at once, of which two fit the pool: benchmark I3."""
    whole_s = MEASURED[0.0, "device"]["decoding step, ms"] / 1000
    of_two = MEASURED[0.0, "recompute"]["tokens/s"]
    chosen = set()
    for (factor, memory), row in MEASURED.items():
        if memory != placement:
            continue
        found = delays(
            StepTimes(
                now_s=2 / of_two,
                on_device_s=max(whole_s - 2 / of_two, 0.0) / 6,
                on_host_s=(row["decoding step, ms"] / 1000 - whole_s) / 8,
            ),
            length=128,
            prompt_s=0.0,
            wait_steps=128,
            on_device=2,
            on_host=0,
            queued=5,
        )
        assert found.host_pays == (row["tokens/s"] > of_two), f"at {factor} times"
        chosen.add(found.host_pays)
    assert True in chosen


def test_room_that_never_comes_is_awaited_for_ever() -> None:
    assert steps_until_room([running(10, 5)], 9, Capacity(8, 4)) == float("inf")


@given(st.integers(0, 2000), st.integers(1, 300))
def test_each_part_of_a_prompt_fetches_what_was_before_it(prompt: int, step_tokens: int) -> None:
    assert fetched_by_prompt(prompt, step_tokens) == sum(range(0, prompt, step_tokens))


def host_lane(costs: HostCosts | None = CHEAP, pages: int = 100) -> HostLane:
    lane = HostLane()
    lane.resize(pages, PAGE_TOKENS)
    lane.costs = costs
    return lane


def compared(request: QueuedRequest, costs: HostCosts, *, queued: int = 0) -> tuple[float, float]:
    found = compare(
        request,
        [running(300, 100)],
        Capacity(32, PAGE_TOKENS),
        COST,
        host_lane(costs),
        queued,
    )
    assert found is not None
    return found


def test_delays_follow_from_the_engine_s_costs(a_request: MakeRequest) -> None:
    request = a_request(prompt=190, max_tokens=20, quantiles=certain(20), host="host-exact")
    length = expected_length(request.quantiles, 20).mean
    step_s, row_s = 10e-3 + 1e-3 + 300e-6, 1e-3 + (190 + length / 2) * 1e-6
    waiting_s, on_host_s = compared(request, CHEAP)
    # Room for 14 pages comes when the only one ends, after its 100 steps.
    assert waiting_s == pytest.approx(101 * step_s + 2 * length * row_s, rel=0.06)
    assert on_host_s == pytest.approx(2 * length * row_s)
    more_s, of_more_s = compared(request, CHEAP, queued=3)
    assert more_s - waiting_s == pytest.approx(3 * length * step_s)
    assert of_more_s - on_host_s == pytest.approx(3 * length * row_s)


def test_the_first_on_the_host_slows_the_others_down(a_request: MakeRequest) -> None:
    slow = HostCosts(CHEAP.rows, CHEAP.fetch_s, slowdown=0.5)
    request = a_request(host="host-exact", quantiles=certain(20))
    lane = host_lane(slow)
    args = [running(300, 100)], Capacity(32, PAGE_TOKENS), COST, lane, 0
    first = compare(request, *args)
    lane.take(a_request(host="host-exact", quantiles=certain(20)))
    second = compare(request, *args)
    assert first is not None
    assert second is not None
    slowed_s = 0.5 * (11e-3 + 300e-6)
    length = expected_length(request.quantiles, request.max_tokens).mean
    assert first.on_host_s / 2 - second.on_host_s / 3 == pytest.approx(length * slowed_s)
    assert lane.added_s(1.0) == pytest.approx(0.5 + 1e-3 + 60e-6)


def test_what_all_on_the_host_cost_together_is_shared_by_those_that_may_come(
    a_request: MakeRequest,
) -> None:
    costs = HostCosts({"host-exact": RowCost(10e-3, 1e-3, 0.0)}, 0.0)
    request = a_request(prompt=190, max_tokens=20, quantiles=certain(20), host="host-exact")
    length = expected_length(request.quantiles, 20).mean

    def added_s(lane: HostLane, like_it: int) -> float:
        args = [running(300, 100)], Capacity(32, PAGE_TOKENS), COST, lane, 9
        found = compare(request, *args, like_it)
        assert found is not None
        return found.on_host_s / (1 + 1 + lane.running + 9) / length

    assert added_s(host_lane(costs), 0) == pytest.approx(11e-3)
    assert added_s(host_lane(costs), 4) == pytest.approx(3e-3)
    assert added_s(host_lane(costs, pages=28), 4) == pytest.approx(6e-3), "two fit"
    lane = host_lane(costs)
    lane.take(a_request(host="host-exact"))
    assert added_s(lane, 0) == pytest.approx(1e-3)
    assert lane.added_s(0.0) == pytest.approx(11e-3)


def test_what_is_not_measured_is_not_compared(a_request: MakeRequest) -> None:
    args = [running(300, 100)], Capacity(32, PAGE_TOKENS), COST
    assert compare(a_request(host="host-exact"), *args, host_lane(None), 0) is None
    assert compare(a_request(), *args, host_lane(), 0) is None
    assert compare(a_request(host="host-speculative"), *args, host_lane(DEAR), 0) is None


class Scene:
    """A loop with a sequence that leaves no room, and one request behind it."""

    def __init__(self, policy: PolicyName, first: QueuedRequest) -> None:
        self.loop = ControlLoop(build_policy(policy, Options(admission="peak")))
        self.loop.resize(32, PAGE_TOKENS)
        self.loop.price(COST)
        self.running: list[RunningSequence] = []
        self.loop.arrive(first)
        started = self.loop.dispatch(0.0, self.present)
        assert started is not None
        self.running = [request.started() for request in started.requests]

    def present(self) -> Sequence[RunningSequence]:
        return self.running

    def decide(self, lane: HostLane) -> Dispatch | None:
        fits = self.loop.dispatch(1.0, self.present)
        return fits or self.loop.move_to_host(1.0, self.present, lane)


@pytest.fixture
def large(a_request: MakeRequest) -> QueuedRequest:
    return a_request(prompt=300, max_tokens=150, quantiles=certain(150), request_id="large")


@pytest.mark.parametrize("policy", ORDERED)
def test_the_head_runs_on_the_host_where_that_delays_less(
    policy: PolicyName, large: QueuedRequest, a_request: MakeRequest
) -> None:
    scene, lane = Scene(policy, large), host_lane()
    waiting = a_request(prompt=250, max_tokens=20, generation=10, host="host-exact")
    scene.loop.arrive(waiting)
    dispatch = scene.decide(lane)
    assert dispatch is not None
    assert dispatch.on_host
    assert dispatch.requests == (waiting,)
    assert lane.held_pages == lane.pages_of(waiting)
    assert scene.loop.waiting == 0
    assert scene.decide(lane) is None
    scene.loop.ended(waiting, 12, 2.0)
    scene.loop.policy.check()


@pytest.mark.parametrize("policy", ORDERED)
@pytest.mark.parametrize(
    ("host", "costs"), [(None, CHEAP), ("host-exact", DEAR), ("host-exact", None)]
)
def test_the_head_waits_where_it_may_not_or_that_delays_more(
    policy: PolicyName,
    host: str | None,
    costs: HostCosts | None,
    large: QueuedRequest,
    a_request: MakeRequest,
) -> None:
    scene = Scene(policy, large)
    scene.loop.arrive(a_request(prompt=250, max_tokens=20, generation=10, host=host))
    assert scene.decide(host_lane(costs)) is None
    assert scene.loop.waiting == 1


def test_what_fits_the_device_runs_there(large: QueuedRequest, a_request: MakeRequest) -> None:
    scene, lane = Scene("lmaas", large), host_lane()
    scene.loop.arrive(a_request(prompt=20, max_tokens=10, generation=5, host="host-exact"))
    dispatch = scene.decide(lane)
    assert dispatch is not None
    assert not dispatch.on_host
    assert not lane.held_pages


def test_a_full_host_is_waited_for_like_the_device(
    large: QueuedRequest, a_request: MakeRequest
) -> None:
    scene, lane = Scene("lmaas", large), host_lane(pages=30)
    first, second = (
        a_request(prompt=250, max_tokens=20, generation=10, host="host-exact") for _ in range(2)
    )
    scene.loop.arrive(first)
    assert scene.decide(lane) is not None
    scene.loop.arrive(second)
    assert scene.decide(lane) is None
    lane.ended(first.id)
    on_host = scene.decide(lane)
    assert on_host is not None
    assert on_host.on_host
    scene.loop.arrive(a_request(prompt=250, max_tokens=20, generation=10, host="host-exact"))
    assert scene.decide(lane) is None
    scene.running = []
    scene.loop.ended(large, 150, 2.0)
    on_device = scene.decide(lane)
    assert on_device is not None
    assert not on_device.on_host


def test_what_only_the_host_holds_comes_first(large: QueuedRequest, a_request: MakeRequest) -> None:
    scene, lane = Scene("lmaas", large), host_lane(pages=100)
    lane.arrive(a_request(prompt=1500, host="host-exact"))
    scene.loop.arrive(a_request(prompt=250, max_tokens=20, host="host-exact"))
    assert scene.decide(lane) is None
    assert lane.dispatch(1.0) is not None


def test_more_sequences_than_the_engine_runs_are_no_lack_of_memory(
    large: QueuedRequest, a_request: MakeRequest
) -> None:
    scene = Scene("lmaas", large)
    scene.loop.resize(32, PAGE_TOKENS, 1)
    scene.loop.arrive(a_request(prompt=20, max_tokens=10, host="host-exact"))
    assert scene.decide(host_lane()) is None


def test_its_tenant_is_charged(large: QueuedRequest, a_request: MakeRequest) -> None:
    scene = Scene("lmaas", large)
    request = a_request(prompt=250, max_tokens=20, quantiles=certain(20), host="host-exact")
    scene.loop.arrive(request)
    shares = scene.loop.policy.shares  # type: ignore[attr-defined]
    before = shares.counter("t")
    assert scene.decide(host_lane()) is not None
    length = expected_length(request.quantiles, 20).mean
    assert shares.counter("t") - before == pytest.approx(250 + 2 * length)
    scene.loop.ended(request, 5, 2.0)
    assert shares.counter("t") - before == pytest.approx(250 + 2 * 5)
