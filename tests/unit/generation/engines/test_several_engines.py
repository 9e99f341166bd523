"""Several engines behind one queue: what each is given, and what becomes of those of a lost one."""

import asyncio
from collections.abc import Callable

import pytest
from msgspec import structs

from engine.protocol import BACKGROUND, EngineInfo, Finish, KvState, StepWork
from gateway.errors import Conflict, EngineLost, InvalidRequest, NotFound
from gateway.generation.engines import group
from gateway.generation.engines.group import difference, joint_info
from gateway.generation.insight.queue_waits import shared_step_time
from gateway.generation.insight.step_cost import MIN_STEPS
from gateway.generation.request import GenerationRequest
from gateway.generation.request_state import RequestState
from gateway.generation.text.tokenizer import ChatTokenizer
from gateway.scheduling.admission.prices import LinearStepTime
from gateway.scheduling.routing.admission import MAX_FORECAST_STEPS
from gateway.scheduling.routing.availability import FIRST_SEQUENCES
from tests.unit.generation.conftest import OUTAGE_S, SchedulerScene

LARGE = KvState(pages=4096, free=4096, page_tokens=16)


@pytest.fixture
def pair(a_request: Callable[..., GenerationRequest], tokenizer: ChatTokenizer) -> SchedulerScene:
    """A scheduler with two engines, neither of which has connected."""
    return SchedulerScene(a_request, tokenizer, engines=2)


def connect(scene: SchedulerScene, kv: KvState = LARGE) -> None:
    for number in range(len(scene.engines)):
        scene.connect(kv, engine=number)


def lose(scene: SchedulerScene, engine: int) -> None:
    scene.scheduler.events[engine].engine_lost()


def sent(scene: SchedulerScene) -> list[list[str]]:
    """The sequences that each engine was given so far."""
    return [[each.id for batch in e.submitted for each in batch] for e in scene.engines]


def of_engine(scene: SchedulerScene, engine: int) -> list[RequestState]:
    return scene.table.on(engine)


async def many(scene: SchedulerScene, count: int) -> list[RequestState]:
    requests = [scene.request() for _ in range(count)]
    await scene.enqueue(*requests)
    for _ in range(count):
        await asyncio.sleep(0)  # a decision may take several turns
    return requests


async def test_requests_are_spread_over_both(pair: SchedulerScene) -> None:
    connect(pair)
    await many(pair, 8)
    assert [len(names) for names in sent(pair)] == [4, 4]


async def test_engine_that_has_not_connected_gets_nothing(pair: SchedulerScene) -> None:
    pair.connect(LARGE, engine=1)
    await many(pair, 4)
    assert [len(names) for names in sent(pair)] == [0, 4]
    assert pair.scheduler.engine.accepting


async def test_one_engine_is_enough_for_a_start(
    pair: SchedulerScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "OTHERS_S", 0.0)
    ready = asyncio.ensure_future(pair.scheduler.engine.ready())
    await asyncio.sleep(0)
    assert not ready.done()
    pair.connect(LARGE, engine=1, device="there")
    assert (await ready).device == "there"


async def test_start_waits_for_the_other_engine_for_a_while(pair: SchedulerScene) -> None:
    ready = asyncio.ensure_future(pair.scheduler.engine.ready())
    pair.connect(LARGE, engine=1)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not ready.done()
    pair.connect(LARGE, engine=0)
    assert (await ready).kv.pages == 2 * LARGE.pages


async def test_tokens_and_ends_of_each_engine_reach_its_requests(pair: SchedulerScene) -> None:
    connect(pair)
    await many(pair, 2)
    [[first], [second]] = [of_engine(pair, number) for number in (0, 1)]
    pair.step({second.sequence_id: [7]}, [Finish(second.sequence_id, "stop")], engine=1)
    pair.step({first.sequence_id: [8, 9]}, engine=0)
    assert (second.tokens, second.finish_reason) == ([7], "stop")
    assert (first.tokens, first.done) == ([8, 9], False)


async def test_lost_engine_s_sequences_go_on_at_the_other_from_their_tokens(
    pair: SchedulerScene,
) -> None:
    connect(pair)
    await many(pair, 4)
    lost = of_engine(pair, 0)
    before = [state.sequence_id for state in lost]
    pair.step({name: [7] for name in before}, engine=0)
    lose(pair, 0)
    moved = pair.engines[1].submitted[-1]
    assert [each.generated for each in moved] == [[7], [7]]
    assert not {each.id for each in moved} & set(before), "they have new names"
    assert [state.engine for state in lost] == [1, 1]
    pair.step({name: [99] for name in before}, engine=0)  # of the lost engine: too late
    assert all(state.tokens == [7] for state in lost)
    pair.step(finished=[Finish(each.id, "stop") for each in moved], engine=1)
    assert all(state.finish_reason == "stop" for state in lost)


@pytest.mark.parametrize("seed", [None, 5])
async def test_moved_sequence_keeps_the_seed_of_its_choice(
    pair: SchedulerScene, seed: int | None
) -> None:
    connect(pair)
    await pair.enqueue(*(pair.request(choice=choice, seed=seed) for choice in range(4)))
    for _ in range(4):
        await asyncio.sleep(0)
    states = [*of_engine(pair, 0), *of_engine(pair, 1)]
    given = [each for engine in pair.engines for batch in engine.submitted for each in batch]
    seeds = {each.id: each.sampling.seed for each in given}
    before = {state.id: seeds[state.sequence_id] for state in states}
    assert len(set(before.values())) == 4
    lose(pair, 0)
    moved = pair.engines[1].submitted[-1]
    seeds = {each.id: each.sampling.seed for each in moved}
    lost = [state for state in states if state.sequence_id in seeds]
    assert len(lost) == 2
    assert all(seeds[state.sequence_id] == before[state.id] for state in lost)


async def test_sequences_wait_while_all_engines_are_lost(pair: SchedulerScene) -> None:
    connect(pair)
    requests = await many(pair, 4)
    lose(pair, 0)
    lose(pair, 1)
    assert not any(state.done for state in requests)
    assert len(of_engine(pair, 2)) == 0
    assert [state.engine for state in requests] == [None] * 4
    pair.connect(LARGE, engine=1)
    assert len(pair.engines[1].submitted[-1]) == 4
    assert [state.engine for state in requests] == [1] * 4


async def test_cancelled_while_its_engine_is_lost_it_does_not_go_on(pair: SchedulerScene) -> None:
    connect(pair)
    requests = await many(pair, 2)
    lose(pair, 0)
    lose(pair, 1)
    pair.scheduler.cancel(requests[0])
    pair.connect(LARGE, engine=0)
    assert [each.id for each in pair.engine.submitted[-1]] == [requests[1].sequence_id]


async def test_requests_fail_only_once_every_engine_is_given_up(pair: SchedulerScene) -> None:
    pair.now_s = 0.0
    connect(pair)
    [request] = await many(pair, 1)
    lose(pair, 0)
    pair.now_s = OUTAGE_S + 1
    pair.scheduler.events[0]._fail_if_given_up(0.0)
    assert not request.done
    lose(pair, 1)
    pair.now_s += OUTAGE_S + 1
    pair.scheduler.events[1]._fail_if_given_up(OUTAGE_S + 1)
    assert isinstance(request.error, EngineLost)


async def test_returned_engine_starts_with_few(pair: SchedulerScene) -> None:
    connect(pair)
    lose(pair, 1)
    pair.connect(LARGE, engine=1)
    await many(pair, 24)
    assert [len(names) for names in sent(pair)] == [24 - FIRST_SEQUENCES, FIRST_SEQUENCES]


async def test_drained_engine_gets_nothing_new_and_finishes(pair: SchedulerScene) -> None:
    connect(pair)
    await many(pair, 2)
    [running] = of_engine(pair, 0)
    pair.scheduler.drain_engine(0)
    await many(pair, 4)
    assert [len(names) for names in sent(pair)] == [1, 5]
    assert pair.scheduler.engine.accepting
    pair.step({running.sequence_id: [7]}, [Finish(running.sequence_id, "stop")], engine=0)
    assert running.finish_reason == "stop"
    pair.scheduler.resume_engine(0)
    await many(pair, 6)
    assert len(sent(pair)[0]) > 1


async def test_sequences_of_a_lost_engine_go_on_where_all_others_are_drained(
    pair: SchedulerScene,
) -> None:
    connect(pair)
    requests = await many(pair, 2)
    pair.scheduler.drain_engine()
    assert not pair.scheduler.engine.accepting
    lose(pair, 0)
    assert [state.engine for state in requests] == [1, 1]


async def test_paused_engine_keeps_what_it_has(pair: SchedulerScene) -> None:
    connect(pair)
    await many(pair, 2)
    pair.scheduler.pause_engine(1)
    await many(pair, 2)
    assert [len(names) for names in sent(pair)] == [3, 1]
    assert ([e.commands for e in pair.engines], pair.scheduler.engine.paused) == (
        [[], ["pause"]],
        False,
    )
    with pytest.raises(NotFound, match="engines are 0 to 1"):
        pair.scheduler.pause_engine(2)


async def test_engine_that_cannot_be_paused_is_named(pair: SchedulerScene) -> None:
    pair.connect(LARGE, engine=0)
    pair.connect(LARGE, engine=1, refusals={"pause": "it is a server"})
    with pytest.raises(Conflict, match="it is a server"):
        pair.scheduler.pause_engine()
    pair.scheduler.pause_engine(0)
    assert pair.engine.commands == ["pause"]


async def test_engine_of_another_model_is_refused(pair: SchedulerScene) -> None:
    pair.connect(LARGE, engine=0, device="here")
    pair.connect(LARGE, engine=1, device="there", model="other")
    await many(pair, 3)
    assert [len(names) for names in sent(pair)] == [3, 0]
    session = pair.scheduler.engine[1]
    assert "there serves the model other, and here the model model" in session.refused
    assert not session.connected
    failure = await pair.scheduler.engine.failed()
    assert failure.message == session.refused
    lose(pair, 1)
    pair.connect(LARGE, engine=1)
    assert (session.refused, session.connected) == ("", True)


async def test_engines_may_all_return_with_another_model(pair: SchedulerScene) -> None:
    connect(pair)
    for engine in (0, 1):
        lose(pair, engine)
    for engine in (0, 1):
        pair.connect(LARGE, engine=engine, model="newer")
    assert all(session.connected for session in pair.scheduler.engine)


async def test_smallest_context_counts(pair: SchedulerScene) -> None:
    pair.connect(LARGE, engine=0)
    [request] = [pair.request(max_tokens=500)]
    await pair.enqueue(request)
    pair.connect(LARGE, engine=1, context_tokens=256)
    assert pair.scheduler.engine.served.context_tokens == 256
    lose(pair, 0)
    assert pair.engines[1].submitted[-1][0].max_tokens == 256 - len(request.prompt)


async def test_lines_of_jobs_run_on_both_and_go_on_after_a_loss(pair: SchedulerScene) -> None:
    connect(pair)
    lines = [pair.request(lane="batch") for _ in range(6)]
    await pair.enqueue(*lines)
    for _ in lines:
        await asyncio.sleep(0)
    assert sorted(map(len, sent(pair))) == [3, 3]
    assert all(each.preempt_first == BACKGROUND for each in pair.engines[1].submitted[0])
    lose(pair, 0)
    assert {state.engine for state in lines} == {1}
    pair.step(finished=[Finish(state.sequence_id, "stop") for state in lines], engine=1)
    assert all(state.finish_reason == "stop" for state in lines)
    assert not pair.loop.batch_lane.running


async def test_expected_remainders_go_to_the_engine_of_the_sequence(pair: SchedulerScene) -> None:
    connect(pair)
    states = await many(pair, 2)
    for state in states:
        pair.scheduler.revise(state, state.prediction)
    await asyncio.sleep(0)
    for number, engine in enumerate(pair.engines):
        [own] = of_engine(pair, number)
        assert engine.commands == [f"revise {{'{own.sequence_id}': 10}}"]


async def test_slow_engine_gets_fewer(pair: SchedulerScene) -> None:
    connect(pair)
    for engine, slowness in enumerate((1, 2)):
        for step in range(MIN_STEPS + 32):
            sequences = 1 + step % 7
            work = StepWork(16 * (step % 3), 0.0, sequences, 100 * sequences)
            took_s = slowness * (0.01 + 0.002 * sequences + 0.001 * (step % 3))
            pair.step(took_s=took_s, computed=1, work=work, kv=LARGE, engine=engine)
    await many(pair, 60)
    fast, slow = map(len, sent(pair))
    assert 0 < slow < 0.8 * fast


async def test_prompt_goes_where_its_prefix_was_computed(pair: SchedulerScene) -> None:
    connect(pair)
    prompt, tenant = list(range(90)) * 4, pair.request().request.caller.tenant_id

    async def ask() -> RequestState:
        state = pair.request(prompt=prompt)
        state.blocks = pair.scheduler.blocks(prompt, tenant)
        await pair.enqueue(state)
        return state

    other = pair.request()
    await pair.enqueue(other)
    first = await ask()
    assert (other.engine, first.engine) == (0, 1)
    for state, engine in ((other, 0), (first, 1)):
        pair.step(finished=[Finish(state.sequence_id, "stop")], kv=LARGE, engine=engine)
    for _ in range(2 * MAX_FORECAST_STEPS):  # the engine is read again: it has nothing to compute
        pair.step(kv=LARGE, engine=1)
    await pair.enqueue(another := pair.request())
    assert another.engine == 0, "of two idle engines the first"
    pair.step(finished=[Finish(another.sequence_id, "stop")], kv=LARGE)
    assert (await ask()).engine == 1


async def test_policies_for_one_engine_are_refused(pair: SchedulerScene) -> None:
    for name in ("magnus", "conservative-continuous"):
        with pytest.raises(InvalidRequest, match="one engine"):
            pair.scheduler.use_policy(name)
    pair.scheduler.use_policy("fcfs")
    connect(pair)
    await many(pair, 4)
    assert [len(names) for names in sent(pair)] == [2, 2]


def test_steps_of_several_engines_are_shorter_by_what_they_share() -> None:
    one, other = LinearStepTime(0.01, 1e-4, 1e-3, 1e-6), LinearStepTime(0.03, 3e-4, 3e-3, 3e-6)
    joint = shared_step_time([one, other], engines=2)
    assert joint.seconds(100, 8, 5000) == pytest.approx(
        (one.seconds(50, 4, 2500) + other.seconds(50, 4, 2500)) / 2
    )
    assert shared_step_time([one], engines=1) == one


def an_info(**fields: object) -> EngineInfo:
    info = EngineInfo("epoch", "model", 512, 100, [4], LARGE, "a", "float32", 8)
    return structs.replace(info, **fields)


@pytest.mark.parametrize(
    ("field", "value"), [("model", "other"), ("vocabulary", 99), ("stop_ids", [5])]
)
def test_engines_of_one_model_agree_in_its_name_vocabulary_and_ends(
    field: str, value: object
) -> None:
    assert difference(an_info(), an_info(device="b", context_tokens=9)) is None
    assert str(value) in (difference(an_info(), an_info(**{field: value})) or "")


def test_several_engines_are_described_by_what_all_of_them_can_do() -> None:
    small = KvState(pages=10, free=4, page_tokens=32, offload_pages=7, offload_free=7)
    joint = joint_info(
        [
            an_info(refusals={"top_k": "no"}, offload_context_tokens=900),
            an_info(context_tokens=300, device="b", kv=small, refusals={"pause": "never"}),
        ]
    )
    assert joint is not None
    assert (joint.context_tokens, joint.max_running, joint.device) == (300, 16, "a, b")
    assert (joint.kv.pages, joint.kv.free, joint.kv.offload_pages) == (4116, 4104, 0)
    assert set(joint.refusals) == {"top_k", "pause", "pins", "lockstep"}
    assert joint.offload_context_tokens == 0
    assert set(joint.offload_refusals) == {"host-exact", "host-speculative"}
    assert joint_info([]) is None
