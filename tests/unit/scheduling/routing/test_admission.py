"""Several engines behind one queue: where requests go, against trying every engine."""

from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.scheduling.admission.future_peak import FuturePeak
from gateway.scheduling.admission.interface import Capacity
from gateway.scheduling.admission.prices import EngineCost, LinearStepTime
from gateway.scheduling.control_loop import ControlLoop
from gateway.scheduling.policy import Options, build_policy
from gateway.scheduling.requests import QueuedRequest, RunningSequence
from gateway.scheduling.routing.admission import RoutedAdmission
from gateway.scheduling.routing.availability import FIRST_SEQUENCES
from gateway.scheduling.routing.forecast import WorkForecast
from gateway.scheduling.routing.lane_admission import RoutedLaneAdmission
from gateway.scheduling.routing.router import OTHERS_WEIGHT

MakeRequest = Callable[..., QueuedRequest]
ENGINES, PAGES, PAGE = 3, 60, 16
FAST = EngineCost(LinearStepTime(0.01, 1e-4, 5e-4, 1e-6), step_tokens=64)
SLOW = EngineCost(LinearStepTime(0.03, 3e-4, 15e-4, 3e-6), step_tokens=64)
requests_to_send = st.lists(
    st.tuples(st.integers(1, 300), st.integers(1, 200)), min_size=1, max_size=10
)


class Engines:
    """Engines that run what they are given, one token a step, and a loop in front of them."""

    def __init__(
        self, costs: Sequence[EngineCost] = (FAST, FAST, SLOW), pages: int = PAGES
    ) -> None:
        self.running: list[dict[str, RunningSequence]] = [{} for _ in costs]
        self.sent: dict[str, QueuedRequest] = {}
        self.policy = build_policy("lmaas", Options(), engines=len(costs))
        assert isinstance(self.policy.admission, RoutedAdmission)
        self.admission = self.policy.admission
        self.loop = ControlLoop(self.policy, self.running_on)
        for engine, cost in enumerate(costs):
            self.loop.resize(pages, PAGE, engine=engine)
            self.loop.price(cost, engine=engine)

    def running_on(self, engine: int) -> Sequence[RunningSequence]:
        return list(self.running[engine].values())

    def everything(self) -> Sequence[RunningSequence]:
        return [each for run in self.running for each in run.values()]

    def arrive(self, *requests: QueuedRequest) -> None:
        for request in requests:
            self.loop.arrive(request)

    def decide(self) -> list[int]:
        """Dispatch what fits; the engines that got something."""
        engines = []
        self.loop.give_up(0.0)
        while (dispatch := self.loop.dispatch(0.0, self.everything)) is not None:
            for request in dispatch.requests:
                engine = self.loop.engine_of(request.id)
                self.running[engine][request.id] = replace(request.started(), engine=engine)
                self.sent[request.id] = request
                engines.append(engine)
        return engines

    def step(self, engine: int, steps: int = 1) -> None:
        self.loop.advance(steps, engine)
        self.running[engine] = {
            key: replace(each, generated=each.generated + steps)
            for key, each in self.running[engine].items()
        }

    def end(self, request_id: str) -> None:
        for running in self.running:
            found = running.pop(request_id, None)
            if found is not None:
                self.loop.ended(self.sent[request_id], found.generated, 0.0)

    def lose(self, engine: int) -> list[RunningSequence]:
        lost = list(self.running[engine].values())
        self.running[engine].clear()
        self.loop.lose(engine)
        for sequence in lost:
            request = replace(self.sent[sequence.id], generated=sequence.generated)
            where = self.loop.move(sequence, request)
            assert where is not None
            self.running[where][sequence.id] = replace(sequence, engine=where)
        return lost

    def check(self) -> None:
        self.policy.check()
        self.admission.router.forecast.check()
        for engine, running in enumerate(self.running):
            assert self.admission.router.forecast.running(engine) == len(running)
            assert all(self.loop.engine_of(key) == engine for key in running)
        lane = self.loop.batch_lane
        if lane.active and not lane._outdated:
            assert isinstance(lane.admission, RoutedLaneAdmission)
            for ledger, running in zip(lane.admission._peaks, self.running, strict=True):
                assert set(ledger._ahead._joined) == set(running)


def sent_to_the_best_that_fits(
    engines: Engines, request: QueuedRequest
) -> tuple[list[int], list[float]]:
    """By trying every engine: those that a request fits, and its cost on each engine."""
    forecast, fitting = WorkForecast(ENGINES), []
    for engine, cost in enumerate((FAST, FAST, SLOW)):
        running = engines.running_on(engine)
        forecast.price(engine, cost)
        forecast.refresh(engine, running)
        ledger = FuturePeak()
        ledger.resize(Capacity(PAGES, PAGE))
        ledger.price(cost)
        ledger.refresh(running)
        if ledger.admit([request]):
            fitting.append(engine)
    own_s, others_s = forecast.ahead(request, [0] * ENGINES)
    return fitting, (own_s + OTHERS_WEIGHT * others_s).tolist()


@given(requests_to_send, st.integers(0, 100))
def test_request_starts_where_it_fits_and_ends_first(
    a_request: MakeRequest, sizes: list[tuple[int, int]], seed: int
) -> None:
    engines, random = Engines(), Random(seed)
    for prompt, generation in sizes:
        request = a_request(prompt, generation)
        for engine in range(ENGINES):  # forecasts and ledgers are read again
            engines.step(engine, random.randint(0, 3))
        engines.loop.refresh([each for run in engines.running for each in run.values()])
        fitting, costs = sent_to_the_best_that_fits(engines, request)
        engines.arrive(request)
        chosen = engines.decide()
        uncomputed = engines.admission.router.forecast._uncomputed
        if not fitting:
            assert chosen == []
            engines.loop.withdraw(request.id)
        elif not uncomputed.any():  # the slow version knows no prompts that are being computed
            assert costs[chosen[0]] == pytest.approx(min(costs[engine] for engine in fitting))
        else:
            assert chosen[0] in fitting
        engines.check()
        if random.random() < 0.3 and engines.sent:
            engines.end(random.choice(sorted(engines.sent)))
            engines.check()


def test_equal_engines_get_equal_numbers_of_equal_requests(a_request: MakeRequest) -> None:
    engines = Engines([FAST] * 4, pages=1_000)
    engines.arrive(*(a_request() for _ in range(16)))
    engines.decide()
    assert [len(running) for running in engines.running] == [4, 4, 4, 4]


def test_slow_engine_gets_fewer_requests(a_request: MakeRequest) -> None:
    engines = Engines([FAST, SLOW], pages=10_000)
    engines.arrive(*(a_request() for _ in range(120)))
    engines.decide()
    fast, slow = (len(running) for running in engines.running)
    assert 0 < slow < fast / 2


def test_prompt_goes_where_its_prefix_is(a_request: MakeRequest) -> None:
    engines = Engines([FAST] * 3, pages=10_000)
    blocks = tuple(range(100, 200))
    first = replace(a_request(prompt=1_700, generation=2), blocks=blocks)
    engines.arrive(first)
    [home] = engines.decide()
    engines.end(first.id)
    for engine in range(3):
        engines.step(engine, 100)
    engines.arrive(a_request(generation=2))  # elsewhere: that one is the first of equal ones
    engines.decide()
    engines.arrive(replace(a_request(prompt=1_700, generation=2), blocks=blocks))
    assert engines.decide() == [home]


def test_what_fits_no_engine_waits_until_a_sequence_ends(a_request: MakeRequest) -> None:
    engines = Engines([FAST, FAST], pages=20)
    engines.arrive(*(a_request(150, 100, request_id=str(number)) for number in range(6)))
    started = engines.decide()
    assert 2 <= len(started) < 6
    assert engines.decide() == []
    engines.end(next(iter(engines.running[1])))
    assert engines.decide() == [1]


@given(st.lists(st.sampled_from(["arrive", "line", "step", "end", "lose", "drain"]), max_size=40))
def test_no_sequence_is_lost_or_twice_whatever_happens_to_engines(
    a_request: MakeRequest, events: list[str]
) -> None:
    engines, random = Engines(), Random(len(events))
    expected: set[str] = set()
    draining: set[int] = set()
    for event in events:
        engine = random.randrange(ENGINES)
        if event in {"arrive", "line"}:
            lane = "interactive" if event == "arrive" else "batch"
            request = a_request(random.randint(1, 200), random.randint(1, 150), lane=lane)
            engines.arrive(request)
            expected.add(request.id)
        elif event == "step":
            engines.step(engine, random.randint(1, 20))
        elif event == "end" and engines.sent:
            ended = random.choice(sorted(engines.sent))
            engines.end(ended)
            expected.discard(ended)
        elif event == "lose" and engine not in draining and len(draining) < ENGINES - 1:
            engines.lose(engine)
            engines.loop.restore(engine)
        elif event == "drain":
            now = engine not in draining and len(draining) < ENGINES - 2
            engines.loop.drain(engine, draining=now)
            draining = {*draining, engine} if now else draining - {engine}
        chosen = engines.decide()
        assert not draining & set(chosen)
        engines.check()
        here = [key for running in engines.running for key in running]
        assert len(here) == len(set(here))
        queued = [*engines.policy.waiting(0.0), *engines.loop.batch_lane.waiting(0.0)]
        waiting = {request.id for batch in queued for request in batch.requests}
        assert expected == {*here, *waiting}


def test_sequences_of_a_lost_engine_go_on_elsewhere(a_request: MakeRequest) -> None:
    engines = Engines([FAST] * 3, pages=1_000)
    engines.arrive(*(a_request() for _ in range(9)))
    engines.decide()
    lost = engines.lose(1)
    assert len(lost) == 3
    assert engines.loop.engine_of(lost[0].id) in {0, 2}
    engines.check()
    assert [len(running) for running in engines.running] in ([5, 0, 4], [4, 0, 5])
    engines.arrive(*(a_request() for _ in range(3)))
    assert 1 not in engines.decide()


def test_returned_engine_starts_with_few(a_request: MakeRequest) -> None:
    engines = Engines([FAST, FAST], pages=1_000)
    engines.lose(1)
    engines.loop.restore(1)
    engines.arrive(*(a_request() for _ in range(40)))
    engines.decide()
    assert len(engines.running[1]) == FIRST_SEQUENCES
    assert len(engines.running[0]) == 40 - FIRST_SEQUENCES


def test_nothing_moves_while_no_engine_is_open(a_request: MakeRequest) -> None:
    engines = Engines([FAST, FAST])
    engines.arrive(a_request())
    [engine] = engines.decide()
    [sequence] = engines.running_on(engine)
    engines.loop.lose(0)
    engines.loop.lose(1)
    assert engines.loop.move(sequence, engines.sent[sequence.id]) is None
    engines.arrive(a_request())
    assert engines.decide() == []


def test_sequence_of_a_lost_engine_goes_on_at_a_drained_one_if_no_other_is_there(
    a_request: MakeRequest,
) -> None:
    engines = Engines([FAST, FAST])
    engines.arrive(a_request())
    [engine] = engines.decide()
    engines.loop.drain(1 - engine, draining=True)
    [sequence] = engines.lose(engine)
    assert engines.loop.engine_of(sequence.id) == 1 - engine


def test_lines_of_jobs_start_on_every_engine_once_nothing_interactive_waits(
    a_request: MakeRequest,
) -> None:
    engines = Engines([FAST] * 3, pages=40)
    engines.arrive(*(a_request(lane="batch") for _ in range(6)), *(a_request() for _ in range(6)))
    chosen = engines.decide()
    first = list(engines.sent.values())[:6]
    assert all(request.lane == "interactive" for request in first)
    assert {engines.loop.engine_of(request.id) for request in first} == {0, 1, 2}
    assert set(chosen[6:]) == {0, 1, 2}
    engines.check()


def test_lane_runs_as_many_lines_as_all_engines_may(a_request: MakeRequest) -> None:
    engines = Engines([FAST, FAST], pages=10_000)
    engines.loop.limit_batch(2, engine=0)
    assert engines.loop.batch_lane.most_running is None
    engines.loop.limit_batch(3, engine=1)
    engines.arrive(*(a_request(lane="batch") for _ in range(9)))
    assert len(engines.decide()) == 5
    engines.lose(1)
    assert engines.loop.batch_lane.most_running == 2


def test_interactive_requests_start_as_without_jobs(a_request: MakeRequest) -> None:
    engines = Engines([FAST, FAST], pages=30)
    engines.arrive(*(a_request(150, 60, lane="batch") for _ in range(8)))
    lines = engines.decide()
    assert len(lines) >= 2
    engines.arrive(*(a_request(150, 60) for _ in range(2)))
    assert len(engines.decide()) == 2, "lines yield their memory"


def test_other_policy_goes_on_with_the_engines_as_they_are(a_request: MakeRequest) -> None:
    engines = Engines([FAST, FAST], pages=1_000)
    engines.arrive(*(a_request() for _ in range(4)))
    engines.decide()
    engines.loop.lose(1)
    other = build_policy("fcfs", Options(), engines=2)
    engines.loop.use(other, [], [each for run in engines.running for each in run.values()])
    request = a_request()
    engines.loop.arrive(request)
    assert engines.loop.dispatch(0.0, list) is not None
    assert engines.loop.engine_of(request.id) == 0
    assert other.admission.capacity == Capacity(1_000, PAGE)


@pytest.mark.parametrize("name", ["magnus", "fixed", "conservative-continuous"])
def test_policies_for_one_engine_refuse_several(name: str) -> None:
    with pytest.raises(ValueError, match="one engine"):
        build_policy(name, Options(), engines=2)  # type: ignore[arg-type]
