"""How much later a request starts than under first come, first served (FCFS)."""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from math import inf
from random import Random
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.scheduling.admission.future_peak import FuturePeak
from gateway.scheduling.lmaas.cost import request_cost, risk_adjusted_length
from gateway.scheduling.lmaas.cost_class import QueueEntry
from gateway.scheduling.lmaas.fcfs_reference import FcfsReference
from gateway.scheduling.lmaas.policy import LmaasPolicy
from gateway.scheduling.lmaas.tenant_queue import OrderBounds, TenantQueue
from gateway.scheduling.requests import QueuedRequest, RunningSequence

MakeRequest: TypeAlias = Callable[..., QueuedRequest]
PAGES, PAGE = 100, 8
MAX_DELAY_S = 20.0
STEP_S = 0.05
RATE = 10_000.0  # KV token-steps per second
loads = st.sampled_from([0.7, 0.95, 1.3, 3.0])
weights = st.sampled_from([0.0, 0.5, 2.0, 10.0])


class TurnTimes(FcfsReference[QueueEntry]):
    """Records when each request's turn came, on the policy's clock."""

    def __init__(self, policy: LmaasPolicy) -> None:
        super().__init__()
        self.policy = policy
        self.turn_s: dict[str, float] = {}

    def due(self) -> Iterator[QueueEntry]:
        for entry in super().due():
            self.turn_s[entry.request.id] = self.policy._now_s
            yield entry


class OneServerSimulation:
    """One tenant, and an engine that serves one request at a time at a constant rate."""

    def __init__(self, bounds: OrderBounds, pages: int = 0) -> None:
        ids = map("b{}".format, count(1))
        admission = FuturePeak(2.0)
        self.policy = LmaasPolicy("lmaas", admission=admission, bounds=bounds)
        self.policy.resize(pages, PAGE)
        queue = self.policy._tenants["t"] = TenantQueue(bounds, ids)
        turns = queue._fcfs = TurnTimes(self.policy)
        self.turn_s = turns.turn_s
        self.started_s: dict[str, float] = {}

    def serve(self, requests: list[QueuedRequest]) -> None:
        """Serve the requests, given in order of arrival."""
        coming, now_s = deque(requests), 0.0
        while coming or len(self.policy):
            while coming and coming[0].arrived_s <= now_s:
                self.policy.arrive(coming.popleft())
            found = self.policy.dispatch(now_s)
            if found is None:
                now_s = coming[0].arrived_s
                continue
            [request] = found.requests
            self.started_s[request.id] = now_s
            end_s = now_s + run_s(request)
            while coming and coming[0].arrived_s < end_s:
                self.policy.arrive(coming.popleft())
            now_s = end_s
            self.policy.ended(request, int(request.median), now_s)
        assert self.turn_s.keys() == {request.id for request in requests}


def run_s(request: QueuedRequest) -> float:
    return request_cost(request.prompt_tokens, risk_adjusted_length(request)) / RATE


def fcfs_starts_s(requests: list[QueuedRequest]) -> dict[str, float]:
    """The start times on the same engine under FCFS."""
    free_s, started_s = 0.0, {}
    for request in requests:
        started_s[request.id] = max(free_s, request.arrived_s)
        free_s = started_s[request.id] + run_s(request)
    return started_s


def max_delay_behind_fcfs_s(
    simulation: OneServerSimulation, requests: list[QueuedRequest]
) -> float:
    """The longest delay of a start behind FCFS."""
    due_s = fcfs_starts_s(requests)
    return max(simulation.started_s[key] - due_s[key] for key in due_s)


def arriving(
    a_request: MakeRequest, random: Random, load: float, number: int, **also: object
) -> list[QueuedRequest]:
    """Mostly short requests, some long, in bursts, at `load` times the capacity."""
    sizes = [(random.randint(1, 60), random.choice([3, 5, 8, 20, 40, 190])) for _ in range(number)]
    mean_s = sum(run_s(a_request(*size)) for size in sizes) / number
    now_s, requests = 0.0, []
    for size in sizes:
        now_s += random.choice([0.0, 0.0, random.expovariate(load / (3 * mean_s))])
        requests.append(a_request(*size, arrived_s=now_s, **also))
    return requests


def longest_s(requests: list[QueuedRequest]) -> float:
    return max(run_s(request) for request in requests)


@settings(max_examples=80)
@given(st.integers(0, 100_000), loads, st.floats(0, 30), weights)
def test_start_is_no_later_than_turn_plus_bound_plus_one_admission_wait(
    a_request: MakeRequest,
    seed: int,
    load: float,
    max_delay_s: float,
    weight: float,
) -> None:
    requests = arriving(a_request, Random(seed), load, 100)
    simulation = OneServerSimulation(OrderBounds(max_delay_s, weight))
    simulation.serve(requests)
    assert max_delay_behind_fcfs_s(simulation, requests) <= max_delay_s + longest_s(requests) + 1e-6


@settings(max_examples=60)
@given(st.integers(0, 100_000), loads, st.floats(0, 30), weights)
def test_bound_is_that_of_the_least_urgent_where_some_are_more_urgent(
    a_request: MakeRequest,
    seed: int,
    load: float,
    max_delay_s: float,
    weight: float,
) -> None:
    random = Random(seed)
    requests = [
        replace(request, urgency=random.choice([0.5, 1.0, 4.0]))
        for request in arriving(a_request, random, load, 100)
    ]
    simulation = OneServerSimulation(OrderBounds(max_delay_s, weight))
    simulation.serve(requests)
    assert (
        max_delay_behind_fcfs_s(simulation, requests)
        <= max_delay_s / 0.5 + longest_s(requests) + 1e-6
    )


@settings(max_examples=40)
@given(st.integers(0, 100_000), loads, weights)
def test_turn_comes_no_later_than_under_fcfs(
    a_request: MakeRequest, seed: int, load: float, weight: float
) -> None:
    requests = arriving(a_request, Random(seed), load, 80)
    simulation = OneServerSimulation(OrderBounds(None, weight))
    simulation.serve(requests)
    due_s, early_s = fcfs_starts_s(requests), longest_s(requests) + 1e-6
    for key, turn_s in simulation.turn_s.items():
        assert due_s[key] - early_s <= turn_s <= due_s[key] + 1e-6


def test_bound_matters(a_request: MakeRequest) -> None:
    requests = arriving(a_request, Random(1), 3.0, 400)
    max_delays_s = {}
    for max_delay_s in (None, 5.0):
        simulation = OneServerSimulation(OrderBounds(max_delay_s))
        simulation.serve(requests)
        max_delays_s[max_delay_s] = max_delay_behind_fcfs_s(simulation, requests)
    assert max_delays_s[5.0] <= 5.0 + longest_s(requests) < 20.0 < max_delays_s[None]


def test_bound_of_zero_is_fcfs(a_request: MakeRequest) -> None:
    requests = arriving(a_request, Random(3), 1.3, 200)
    simulation = OneServerSimulation(OrderBounds(0.0, 0.0))
    simulation.serve(requests)
    assert max_delay_behind_fcfs_s(simulation, requests) <= longest_s(requests)


def test_urgent_request_is_held_back_less(a_request: MakeRequest) -> None:
    random, max_delays_s = Random(2), {}
    for urgency in (1.0, 4.0):
        requests = arriving(a_request, random, 3.0, 200, urgency=urgency)
        simulation = OneServerSimulation(OrderBounds(MAX_DELAY_S, 0.0))
        simulation.serve(requests)
        max_delays_s[urgency] = max_delay_behind_fcfs_s(simulation, requests)
        assert max_delays_s[urgency] <= MAX_DELAY_S / urgency + longest_s(requests)
    assert max_delays_s[4.0] < max_delays_s[1.0]


@pytest.mark.parametrize("max_delay_s", [None, MAX_DELAY_S])
@pytest.mark.parametrize("load", [0.7, 3.0])
@pytest.mark.parametrize("seed", range(4))
def test_higher_waiting_weight_is_nearer_to_order_of_arrival(
    a_request: MakeRequest, seed: int, load: float, max_delay_s: float | None
) -> None:
    requests, displaced = arriving(a_request, Random(seed), load, 400), []
    for weight in (2.0, 5.0, 10.0):
        simulation = OneServerSimulation(OrderBounds(max_delay_s, weight))
        simulation.serve(requests)
        displaced.append(displacement(simulation, requests))
    assert displaced[0] > displaced[1] > displaced[2]
    assert displaced[2] < 0.75 * displaced[0]


@pytest.mark.parametrize("load", [0.7, 1.3])
@pytest.mark.parametrize("seed", range(4))
def test_high_waiting_weight_keeps_the_maximum_of_fcfs_at_a_lower_mean(
    a_request: MakeRequest, seed: int, load: float
) -> None:
    requests = arriving(a_request, Random(seed), load, 400)
    slowest_s, mean_s = answers_s(fcfs_starts_s(requests), requests)
    took_s = {}
    for weight in (0.0, 10.0):
        simulation = OneServerSimulation(OrderBounds(None, weight))
        simulation.serve(requests)
        took_s[weight] = answers_s(simulation.started_s, requests)
    assert took_s[10.0][0] <= 1.1 * slowest_s
    assert took_s[10.0][0] < took_s[0.0][0]
    assert took_s[0.0][1] < took_s[10.0][1] < 0.9 * mean_s


def answers_s(started_s: dict[str, float], requests: list[QueuedRequest]) -> tuple[float, float]:
    """The maximum and the mean response time."""
    took_s = [started_s[each.id] + run_s(each) - each.arrived_s for each in requests]
    return max(took_s), sum(took_s) / len(took_s)


def displacement(simulation: OneServerSimulation, requests: list[QueuedRequest]) -> int:
    """The sum over requests of the positions by which their start is out of order."""
    started = sorted(requests, key=lambda request: simulation.started_s[request.id])
    place = {request.id: place for place, request in enumerate(started)}
    return sum(abs(place[request.id] - n) for n, request in enumerate(requests))


class StepEngine:
    """A step engine with a steady supply of short requests, `factor` times as long as predicted."""

    def __init__(self, a_request: MakeRequest, random: Random, factor: float) -> None:
        self.simulation = OneServerSimulation(OrderBounds(MAX_DELAY_S), pages=PAGES)
        self.policy = self.simulation.policy
        self.a_request, self.random, self.factor = a_request, random, factor
        self.running: dict[QueuedRequest, list[int]] = {}  # tokens so far, and at the end
        self.now_s = 0.0

    def step(self) -> set[str]:
        """Run a step; the ids of the requests that started."""
        started = self.start()
        for request, tokens in list(self.running.items()):
            tokens[0] += 1
            if tokens[0] >= tokens[1]:
                del self.running[request]
                self.policy.ended(request, tokens[0], self.now_s)
        self.policy.admission.advance(1)
        self.now_s += STEP_S
        return started

    def start(self) -> set[str]:
        while len(self.policy) < 10:
            prompt = self.random.randint(40, 80)
            self.policy.arrive(self.a_request(prompt, 20, arrived_s=self.now_s))
        if self.policy.admission.stale:
            self.policy.admission.refresh([running(r, t[0]) for r, t in self.running.items()])
        started: set[str] = set()
        while (found := self.policy.dispatch(self.now_s)) is not None:
            for request in found.requests:
                quantile = self.random.choice(request.quantiles)
                end = max(1, min(int(self.factor * quantile), request.max_tokens))
                self.running[request] = [0, end]
            started |= {request.id for request in found.requests}
        return started


def running(request: QueuedRequest, generated: int) -> RunningSequence:
    return RunningSequence(
        request.id, request.prompt_tokens, generated, request.quantiles, request.max_tokens
    )


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0, 10.0])
@settings(max_examples=4)
@given(seed=st.integers(0, 1000))
def test_large_request_starts_in_time_regardless_of_predictions(
    a_request: MakeRequest, factor: float, seed: int
) -> None:
    engine = StepEngine(a_request, Random(seed), factor)
    for _ in range(40):
        engine.step()
    large = a_request(500, 150, arrived_s=engine.now_s, max_tokens=250, request_id="large")
    engine.policy.arrive(large)
    drained_s = 200 * STEP_S  # the longest running sequence
    while "large" not in engine.step():
        turn_s = engine.simulation.turn_s.get("large", inf)
        assert engine.now_s <= turn_s + MAX_DELAY_S + drained_s
