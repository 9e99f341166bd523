"""A replay, the live scheduler and the control loop decide the same on the same events."""

import asyncio
from collections.abc import Callable, Sequence
from math import inf
from random import Random
from typing import Any, TypeAlias

import numpy as np
import pytest
from msgspec import Struct, structs

from engine.protocol import Finish, KvState
from gateway.generation.request import GenerationRequest
from gateway.generation.request_state import RequestState
from gateway.generation.text.tokenizer import ChatTokenizer
from gateway.prediction.serving.drift import RollingQuality
from gateway.replay.cost.model import EngineShape
from gateway.replay.engine.sequence import EngineStatistics, SimulatedSequence
from gateway.replay.simulator import TRUST_WINDOW, ReplayedEngine, Simulation
from gateway.replay.workload.workload import Workload
from gateway.scheduling.admission.prices import EngineCost, LinearStepTime
from gateway.scheduling.control_loop import ControlLoop
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.policy import POLICY_NAMES, Options, PolicyName, build_policy
from gateway.scheduling.requests import QueuedRequest, RunningSequence
from tests.unit.generation.conftest import SchedulerScene, a_request, tokenizer

STEP_S = 0.25  # exact in floating point
KV = KvState(pages=40, free=40, page_tokens=16)
SHAPE = EngineShape(pages=KV.pages, page_tokens=KV.page_tokens, step_tokens=64, context_tokens=512)
TAU_FLOOR = 0.2
LOCKSTEP = [name for name in POLICY_NAMES if build_policy(name, Options()).lockstep]
Dispatched: TypeAlias = tuple[float, tuple[str, ...], str]  # time, request ids, order

fixtures = (a_request, tokenizer)


@pytest.fixture
def scene(a_request: Callable[..., GenerationRequest], tokenizer: ChatTokenizer) -> SchedulerScene:
    return SchedulerScene(a_request, tokenizer)


class ScriptedStep(Struct, frozen=True):
    """The result of a step of the scripted engine, as request ids."""

    at_s: float
    generated_for: list[str]
    finished: list[str]
    preempted: list[str]
    returned: list[str] = []


class ScriptedEngine:
    """Each sequence gets a token in each step; random ones are preempted and lose nothing."""

    def __init__(self, seed: int) -> None:
        self.statistics = EngineStatistics()
        self.next_s = inf
        self.steps = 0
        self.at_boundary = False
        self.script: list[ScriptedStep] = []
        self._random = Random(seed)
        self._sequences: list[SimulatedSequence] = []
        self._stepping: list[SimulatedSequence] = []

    def submit(self, sequences: list[SimulatedSequence], at_s: float) -> None:
        self._sequences.extend(sequences)
        if self.next_s == inf and not self.at_boundary:
            self.next_s = at_s

    def settle(self) -> list[SimulatedSequence]:
        self.at_boundary = True
        if not self._stepping:
            return []
        for sequence in self._stepping:
            sequence.generated += 1
        finished = [s for s in self._stepping if s.generated == s.tokens]
        going = [s for s in self._stepping if s.generated < s.tokens]
        preempted = [s for s in going if self._random.random() < 0.01]
        for sequence in preempted:
            sequence.preemptions += 1
        self.statistics.preemptions += len(preempted)
        self.steps += 1
        generated_for, ended, paused = (
            _ids(some) for some in (self._stepping, finished, preempted)
        )
        self.script.append(ScriptedStep(self.next_s, generated_for, ended, paused))
        self._sequences = [s for s in self._sequences if s.generated < s.tokens]
        self._stepping = []
        return finished

    def take_returned(self) -> list[SimulatedSequence]:
        return []

    def compose(self) -> None:
        self.at_boundary = False
        self._stepping = list(self._sequences)
        self.next_s = self.next_s + STEP_S if self._sequences else inf

    def steps_by(self, _at_s: float) -> int:
        return self.steps

    def reached_s(self, boundary: int) -> float:
        return self.next_s if boundary == self.steps + 1 and self._stepping else inf

    def pages_at(self, _at_s: float) -> int:
        return 0


class ScriptedLockstepEngine(ScriptedEngine):
    """A batch ends as a whole; at random steps its rest runs out of memory and is returned."""

    returned: Sequence[SimulatedSequence] = ()

    def settle(self) -> list[SimulatedSequence]:
        self.at_boundary = True
        if not self._stepping:
            return []
        growing = [s for s in self._stepping if s.generated < s.tokens]
        for sequence in growing:
            sequence.generated += 1
        unfinished = [s for s in growing if s.generated < s.tokens]
        if unfinished and (len(self._stepping) == 1 or self._random.random() > 0.03):
            finished, returned = [], []
        else:
            finished = [s for s in self._stepping if s.generated == s.tokens]
            returned = unfinished
            self._sequences = []
        for sequence in returned:
            sequence.preemptions += 1
        self.statistics.preemptions += len(returned)
        self.steps += 1
        generated_for, ended, back = (_ids(some) for some in (growing, finished, returned))
        self.script.append(ScriptedStep(self.next_s, generated_for, ended, [], back))
        self.returned, self._stepping = returned, []
        return finished

    def take_returned(self) -> list[SimulatedSequence]:
        returned, self.returned = list(self.returned), ()
        return returned


class Dispatches:
    """Records dispatches; a request that goes on in a half keeps the order of its first start."""

    def __init__(self) -> None:
        self.seen: list[Dispatched] = []
        self._order: dict[str, str] = {}

    def add(self, dispatch: Any, now_s: float) -> Dispatched:
        order = "arrival" if dispatch.reason == "arrival" else "policy"
        ids = tuple(request.id for request in dispatch.requests)
        for name in ids:
            self._order.setdefault(name, order)
        self.seen.append((now_s, ids, self._order[ids[0]]))
        return self.seen[-1]


COST = EngineCost(LinearStepTime(0.02, 0.5, 0.0, 0.0), step_tokens=64)


class RecordingSimulation(Simulation):
    """A replay that records its dispatches."""

    def __init__(self, workload: Workload, policy: Any, engine: Any) -> None:
        engines = [ReplayedEngine(engine, SHAPE, COST)]
        super().__init__(workload, policy, engines, tau_floor=TAU_FLOOR, max_samples=2)
        self.dispatches = Dispatches()

    @property
    def dispatched(self) -> list[Dispatched]:
        return self.dispatches.seen

    def _submit(self, dispatch: Any, now_s: float) -> None:
        self.dispatches.add(dispatch, now_s)
        super()._submit(dispatch, now_s)


def contended_workload(seed: int, *, well_predicted: bool = True, count: int = 400) -> Workload:
    """Requests of three tenants, some with a latest start; predictions good or reversed."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(np.exp(rng.normal(3.2, 0.7, count)).round(), 1, 150)
    medians = lengths * np.exp(rng.normal(0.0, 0.4, count))
    spread = np.exp(0.4 * np.array([-1.28, -0.67, 0.0, 0.67, 1.28, 1.64]))
    waits = np.where(rng.random(count) < 0.2, rng.integers(1, 30, count), np.nan)
    return Workload.of(
        np.floor(rng.exponential(1.1, count).cumsum() / STEP_S) * STEP_S,
        rng.integers(5, 60, count),
        lengths,
        max_tokens=200,
        quantiles=np.clip((medians if well_predicted else medians[::-1])[:, None] * spread, 1, 200),
        tenants=[f"{number:032x}" for number in (1, 2, 3)],
        tenant=rng.integers(0, 3, count),
        start_by_s=waits,
    )


def enqueue(scene: SchedulerScene, request: QueuedRequest) -> RequestState:
    """Enqueue the same request in the live scheduler."""
    started_s = request.arrived_s
    wait_s = None if request.start_by_s is None else request.start_by_s - started_s
    state = scene.request(
        max_tokens=request.max_tokens,
        quantiles=request.quantiles,
        prompt=[1] * request.prompt_tokens,
        arrived_s=started_s,
        tenant=int(request.tenant, 16),
        max_queue_s=wait_s,
    )
    scene.scheduler.enqueue(state)
    return state


async def live_dispatches(scene: SchedulerScene, names: dict[str, str]) -> list[Dispatched]:
    """The live scheduler's dispatches until it is idle; `names` has request ids by hex id."""
    before = len(scene.engine.submitted)
    for _ in range(20):
        await asyncio.sleep(0)
    found: list[Dispatched] = []
    for batch in scene.engine.submitted[before:]:
        states = [scene.table.running[sequence.id] for sequence in batch]
        ids = tuple(names[state.id.hex] for state in states)
        assert scene.now_s is not None
        found.append((scene.now_s, ids, states[0].trace.order or ""))
    return found


async def run_live(
    workload: Workload, script: list[ScriptedStep], scene: SchedulerScene
) -> list[Dispatched]:
    """The live scheduler's dispatches on the same arrivals and steps."""
    dispatched: list[Dispatched] = []
    states: dict[str, RequestState] = {}
    names: dict[str, str] = {}
    quality = RollingQuality(TRUST_WINDOW)
    arrivals = [workload.request(index) for index in range(len(workload))]
    steps = list(script)
    scene.connect(KV)
    while arrivals or steps:
        times = [*(r.arrived_s for r in arrivals[:1]), *(step.at_s for step in steps[:1])]
        scene.now_s = min(times)
        while steps and steps[0].at_s <= scene.now_s:
            step = steps.pop(0)
            for index in map(int, step.finished):
                request, length = workload.request(index), workload.generation_tokens[index]
                quality.add(request.median, float(length), covered=True)
                measured = quality.quality()
                scene.outcomes.trusted = measured is None or measured.tau >= TAU_FLOOR
            scene.step(
                {states[each].sequence_id: [7] for each in step.generated_for},
                [Finish(states[each].sequence_id, "stop") for each in step.finished],
                preempted=[states[each].sequence_id for each in step.preempted],
                returned=[states[each].sequence_id for each in step.returned],
                kv=KV,
            )
        while arrivals and arrivals[0].arrived_s <= scene.now_s:
            request = arrivals.pop(0)
            state = states[request.id] = enqueue(scene, request)
            names[state.id.hex] = request.id
        dispatched += await live_dispatches(scene, names)
    return dispatched


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", POLICY_NAMES)
async def test_replay_and_live_scheduler_make_the_same_decisions(
    name: PolicyName, seed: int, scene: SchedulerScene
) -> None:
    workload, policy = contended_workload(seed), build_policy(name, Options())
    engine = ScriptedLockstepEngine(seed) if policy.lockstep else ScriptedEngine(seed)
    run = RecordingSimulation(workload, policy, engine)
    outcomes = run.run()
    assert outcomes.gave_up.any()
    assert outcomes.preemptions.sum() > 20
    scene.scheduler._loop.price(COST)
    scene.scheduler.use_policy(name, Options(make_room=False))  # a replay never makes room
    assert await run_live(workload, engine.script, scene) == run.dispatched


async def test_replay_and_live_scheduler_distrust_predictions_at_the_same_time(
    scene: SchedulerScene,
) -> None:
    workload, engine = contended_workload(3, well_predicted=False), ScriptedEngine(3)
    policy = build_policy("lmaas", Options())
    run = RecordingSimulation(workload, policy, engine)
    run.run()
    assert policy.order == "arrival"
    scene.scheduler._loop.price(COST)
    scene.scheduler.use_policy("lmaas", Options(make_room=False))
    assert await run_live(workload, engine.script, scene) == run.dispatched


class LiveAndLoop:
    """The live scheduler and a bare control loop, driven by the same events."""

    def __init__(self, scene: SchedulerScene) -> None:
        self.scene = scene
        self.now_s = 0.0
        self.loop = ControlLoop(build_policy("lmaas", Options()))
        self.connected = False
        self.waiting: dict[str, QueuedRequest] = {}
        self.running: dict[str, tuple[QueuedRequest, int]] = {}  # with tokens generated
        self.halved = 0  # batches
        self.dispatches = Dispatches()
        self.requested: set[str] = set()  # of these the gateway asked for a preemption
        self.states: dict[str, RequestState] = {}
        self.names: dict[str, str] = {}
        scene.scheduler.use_policy("lmaas", Options())

    def known(self) -> list[RunningSequence]:
        return [
            structs.replace(request.started(), generated=tokens)
            for request, tokens in self.running.values()
        ]

    def arrive(self, request: QueuedRequest) -> None:
        self.waiting[request.id] = request
        self.loop.arrive(request)
        state = self.states[request.id] = enqueue(self.scene, request)
        self.names[state.id.hex] = request.id

    def step(self, finished: Sequence[str], preempted: Sequence[str]) -> None:
        self.scene.step(
            {self.states[each].sequence_id: [7] for each in self.running},
            [Finish(self.states[each].sequence_id, "stop") for each in finished],
            preempted=[self.states[each].sequence_id for each in preempted],
            kv=KV,
        )
        self.loop.advance(1)
        self.requested -= set(preempted)
        self.running = {name: (r, tokens + 1) for name, (r, tokens) in self.running.items()}
        for name in finished:
            self.loop.ended(*self.running.pop(name), self.now_s)

    def split(self) -> None:
        """The engine returns all that runs: it ran out of memory in lock step."""
        returned = list(self.running)
        self.scene.step(returned=[self.states[each].sequence_id for each in returned], kv=KV)
        self.loop.advance(1)
        self.requested.clear()
        requests = [
            structs.replace(request, generated=tokens, start_by_s=None)
            for request, tokens in self.running.values()
        ]
        if self.loop.halve(requests):
            self.halved += 1
            self.running.clear()
            self.waiting.update({request.id: request for request in requests})
        else:
            self.loop.interrupt()

    def cancel(self, name: str) -> None:
        self.scene.scheduler.cancel(self.states[name])
        if self.waiting.pop(name, None) is None:
            self.loop.ended(*self.running.pop(name), self.now_s)
        else:
            self.loop.withdraw(name)
        self.loop.due = True

    def lose(self) -> None:
        self.scene.scheduler.events[0].engine_lost()
        self.loop.interrupt()
        self.connected = False

    def connect(self) -> None:
        self.scene.connect(KV)
        self.scene.engine.submitted.clear()  # running sequences continue: no decision
        self.loop.resize(KV.pages, KV.page_tokens)
        self.loop.refresh(self.known())
        self.loop.due = self.connected = True

    def use(self, name: PolicyName) -> None:
        if name != self.loop.policy.name:
            self.scene.scheduler.use_policy(name)
            policy = build_policy(name, Options())
            self.loop.use(policy, list(self.waiting.values()), self.known())
            self.scene.scheduler._policies.clear()  # none is reused

    def next_dispatch(self) -> Dispatch | None:
        dispatch = self.loop.dispatch(self.now_s, self.known)
        return dispatch or self.loop.make_room(self.now_s, self.known, KV.free)

    async def decide(self) -> list[Dispatched]:
        """The dispatches, which are the same in both."""
        dispatched: list[Dispatched] = []
        due = self.loop.due
        if due:
            for request in self.loop.give_up(self.now_s):
                del self.waiting[request.id]
        while due and self.connected and (found := self.next_dispatch()):
            dispatched.append(self.dispatches.add(found, self.now_s))
            self.requested |= set(found.preempt)
            for request in found.requests:
                self.running[request.id] = self.waiting.pop(request.id), request.generated
        assert await live_dispatches(self.scene, self.names) == dispatched
        return dispatched


@pytest.mark.parametrize("seed", range(6))
async def test_live_scheduler_decides_like_the_loop_under_random_events(
    seed: int, scene: SchedulerScene
) -> None:
    random, workload, pair = Random(seed), contended_workload(seed), LiveAndLoop(scene)
    lengths = workload.generation_tokens.tolist()
    arrivals = [workload.request(index) for index in range(len(workload))]
    dispatched: list[Dispatched] = []
    for tick in range(1_200):
        pair.now_s = scene.now_s = tick * STEP_S
        if pair.connected:
            at_end = [n for n, (_, tokens) in pair.running.items() if tokens + 1 >= lengths[int(n)]]
            others = pair.running.keys() - at_end
            pair.step(at_end, [each for each in sorted(others) if random.random() < 0.01])
        while arrivals and arrivals[0].arrived_s <= pair.now_s:
            pair.arrive(arrivals.pop(0))
        event = random.random()
        if event < 0.05 and (pair.waiting or pair.running):
            pair.cancel(random.choice([*pair.waiting, *pair.running]))
        elif event < 0.06 and pair.connected:
            pair.lose()
        elif event < 0.15 and not pair.connected:
            pair.connect()
        elif 0.15 < event < 0.18 and pair.connected and pair.running:
            pair.split()
        elif event > 0.99:
            pair.use(random.choice(random.choice([POLICY_NAMES, LOCKSTEP])))
        dispatched += await pair.decide()
    assert sum(len(names) for _, names, _ in dispatched) > 100
    assert pair.halved >= 5


def _ids(sequences: Sequence[SimulatedSequence]) -> list[str]:
    return [sequence.request.id for sequence in sequences]
