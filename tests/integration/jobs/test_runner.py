"""The runner of batch jobs with a real engine: groups, losses, cancels, and a source that fails."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

import httpx
import pytest
from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from engine.protocol import Sampling
from gateway.engines.colocated import ColocatedEngine
from gateway.engines.supervisor import EngineSupervisor
from gateway.errors import LineAboveLimit, TenantQueueFull
from gateway.generation.request import GenerationRequest, RecordKey
from gateway.generation.request_state import RequestState
from gateway.generation.service import GenerationService, PreparedRequest
from gateway.generation.text.tokenizer import ChatTokenizer
from gateway.generation.text.workers import TextWorkers
from gateway.jobs import paused_apps
from gateway.jobs.runner import JobLine, JobRunner, LineOutcome
from gateway.prediction.serving.predictor import LengthPredictor
from gateway.scheduling.requests import SharedPrefix
from tests.conftest import PATIENCE_S
from tests.supervised_engine import supervised_engine
from tests.unit.generation.conftest import SchedulerScene, a_request, tokenizer
from tests.unit.generation.test_holds import a_limit

fixtures = (a_request, tokenizer)
PREFIX, OWN, ANSWER = 64, 9, 12
GROUPS, MEMBERS = 4, 8
STARTED = datetime(2026, 11, 28, tzinfo=UTC)


@pytest.fixture(scope="module")
async def supervisor(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineSupervisor]:
    async with supervised_engine(
        tmp_path_factory.mktemp("engine"), LMAAS_KV_TOKENS="4096"
    ) as supervisor:
        yield supervisor


class ListSource:
    """Lines in memory. While `away`, every call fails, after writing if it is to write."""

    def __init__(self, lines: Sequence[JobLine]) -> None:
        self.waiting = list(lines)
        self.running: dict[JobLine, None] = {}
        self.outcomes: list[LineOutcome] = []
        self.released: list[JobLine] = []
        self.gone: set[JobLine] = set()
        self.claims = 0
        self.away = False

    async def claim(self, count: int, without: Collection[UUID] = ()) -> Sequence[JobLine]:
        self._check()
        free = [line for line in self.waiting if line.request.caller.app_id not in without]
        claimed = free[:count]
        self.waiting = [line for line in self.waiting if line not in claimed]
        self.running |= dict.fromkeys(claimed)
        self.claims += bool(claimed)
        return claimed

    async def finished(self, outcomes: Sequence[LineOutcome]) -> None:
        for outcome in outcomes:
            if outcome.line in self.running:  # else it was written already
                del self.running[outcome.line]
                self.outcomes.append(outcome)
        self._check()

    async def release(self, lines: Sequence[JobLine]) -> None:
        self._check()
        self.released += lines

    async def lost(self, lines: Sequence[JobLine]) -> Sequence[JobLine]:
        self._check()
        return [line for line in lines if line in self.gone]

    def _check(self) -> None:
        if self.away:
            raise ConnectionResetError("the source is away")


class JobScene(SchedulerScene):
    """A service over the engine, and jobs of grouped lines with known lengths."""

    service: GenerationService

    def sampling(self) -> Sampling:
        stop_ids = self.scheduler.engine.served.stop_ids
        return Sampling(logit_bias=dict.fromkeys(stop_ids, -100.0))

    def lines(self, groups: int = GROUPS, members: int = MEMBERS) -> list[JobLine]:
        """Lines group after group; no two have the first token after their prefix in common."""
        return [
            JobLine(
                key=RecordKey(UUID(int=1_000_000 + group * members + n), STARTED),
                request=self._new_request(
                    prompt=(*([100 + group] * PREFIX), 300 + group * members + n, *([7] * 8)),
                    max_tokens=ANSWER,
                    sampling=self.sampling(),
                    lane="batch",
                    prefix=SharedPrefix(f"group {group}", PREFIX),
                ),
            )
            for group in range(groups)
            for n in range(members)
        ]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.002)

    def total(self, name: str) -> float:
        return self.scheduler.metrics.registry.get_sample_value(name) or 0.0


@pytest.fixture
async def scene(
    supervisor: EngineSupervisor,
    a_request: Callable[..., GenerationRequest],
    tokenizer: ChatTokenizer,
) -> AsyncIterator[JobScene]:
    """A service connected to the engine; at the end nothing is held there, and nothing pinned."""
    client = ColocatedEngine(supervisor.socket)
    scene = JobScene(a_request, tokenizer, client=client)
    await scene.scheduler.start()
    await scene.scheduler.engine.ready()
    predictor = LengthPredictor(
        model="m", model_hash="h", budget_s=1.0, sessions=async_sessionmaker[AsyncSession]()
    )
    workers = TextWorkers()
    scene.service = GenerationService("model", tokenizer, predictor, scene.scheduler, workers)
    yield scene
    assert (scene.waiting, scene.running, len(scene.scheduler.pins)) == (0, 0, 0)
    transport = httpx.AsyncHTTPTransport(uds=supervisor.socket)
    async with httpx.AsyncClient(transport=transport, base_url="http://engine") as http:
        assert (await http.get("/audit")).json() == {"wrong": None}
    workers.close()
    await client.close()


@asynccontextmanager
async def running(scene: JobScene, source: ListSource) -> AsyncIterator[JobRunner]:
    runner = JobRunner(source, scene.service, Counter())
    runner.start()
    yield runner
    runner.check()
    await runner.close()


def check_each_once(source: ListSource, lines: Sequence[JobLine]) -> None:
    """Every line was answered once, in full and without an error."""
    assert Counter(outcome.line.key.id for outcome in source.outcomes) == Counter(
        line.key.id for line in lines
    )
    for outcome in source.outcomes:
        assert outcome.failure is None
        assert [len(state.tokens) for state in outcome.states] == [ANSWER]


async def test_a_groups_prefix_is_computed_once_next_to_interactive_requests(
    scene: JobScene, a_request: Callable[..., GenerationRequest]
) -> None:
    lines = scene.lines()
    source = ListSource(lines)
    async with running(scene, source):
        await scene.until(lambda: scene.running)
        [asked] = await scene.service.start(
            a_request(prompt=tuple([90] * 20), max_tokens=ANSWER, sampling=scene.sampling())
        )
        await asked.wait_for_end()
        await scene.until(lambda: len(source.outcomes) == len(lines))
    check_each_once(source, lines)
    assert asked.error is None
    prompts = 20 + GROUPS * PREFIX + len(lines) * OWN
    assert scene.total("lmaas_engine_computed_tokens_total") == (
        prompts + (len(lines) + 1) * (ANSWER - 1)
    )
    assert scene.total("lmaas_saved_prompt_tokens_total") == GROUPS * (MEMBERS - 1) * PREFIX
    records = {record.id: record for record in scene.outcomes.records}
    assert len(records) == len(scene.outcomes.records) == len(lines) + 1
    batch = [record for record in records.values() if record.batch]
    assert {record.arrived_at for record in batch} == {STARTED}
    assert len(batch) == len(lines)


async def test_lines_start_in_the_order_of_the_source(scene: JobScene) -> None:
    scene.scheduler.use_policy("fcfs")
    lines = scene.lines(groups=12)
    source = ListSource(lines)
    async with running(scene, source):
        await scene.until(lambda: len(source.outcomes) == len(lines))
    check_each_once(source, lines)
    assert source.claims > 1
    states = [state for outcome in source.outcomes for state in outcome.states]
    states.sort(key=lambda state: state.id)
    starts = [state.dispatched_s or 0.0 for state in states]
    assert starts == sorted(starts)


async def test_a_killed_engine_loses_and_doubles_no_line(
    scene: JobScene, supervisor: EngineSupervisor
) -> None:
    lines = scene.lines()
    source = ListSource(lines)
    async with running(scene, source):
        await scene.until(lambda: any(state.tokens for state in scene.table.running.values()))
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        await scene.until(lambda: len(source.outcomes) == len(lines))
    check_each_once(source, lines)


async def test_cancelled_lines_leave_queue_and_engine(scene: JobScene) -> None:
    lines = scene.lines(groups=16)
    source = ListSource(lines)
    async with running(scene, source) as runner:
        await scene.until(lambda: scene.running)
        source.waiting.clear()
        source.gone = set(lines)
        await runner.drop_lost()
        await scene.until(lambda: not runner.lines)
        assert (scene.waiting, scene.running) == (0, 0)
    assert len(source.outcomes) < len(lines)
    assert not source.released


async def test_lines_that_were_taken_away_run_when_they_are_claimed_again(scene: JobScene) -> None:
    lines = scene.lines()
    source = ListSource(lines)
    async with running(scene, source) as runner:
        await scene.until(lambda: any(state.tokens for state in scene.table.running.values()))
        taken = [line for line, _ in runner.running()]
        source.gone = set(taken)
        await runner.drop_lost()
        source.gone.clear()
        source.waiting[:0] = taken
        await scene.until(lambda: len(source.outcomes) == len(lines))
    check_each_once(source, lines)


async def test_a_source_that_is_away_loses_and_doubles_no_line(scene: JobScene) -> None:
    lines = scene.lines(groups=12)
    source = ListSource(lines)
    source.away = True
    async with running(scene, source):
        await asyncio.sleep(0)
        source.away = False
        await scene.until(lambda: scene.running)
        source.away = True
        await scene.until(lambda: source.outcomes)  # written, but the answer was lost
        source.away = False
        await scene.until(lambda: len(source.outcomes) == len(lines))
    check_each_once(source, lines)


async def test_a_runner_that_stops_gives_back_what_has_not_ended(scene: JobScene) -> None:
    lines = scene.lines(groups=16)
    source = ListSource(lines)
    async with running(scene, source):
        await scene.until(lambda: scene.running)
    ended = [outcome.line for outcome in source.outcomes]
    assert Counter([*ended, *source.released, *source.waiting]) == Counter(lines)
    assert source.released


async def test_a_runner_that_drains_ends_what_runs_and_gives_back_the_rest(
    scene: JobScene,
) -> None:
    lines = scene.lines(groups=16)
    source = ListSource(lines)
    async with running(scene, source) as runner:
        await scene.until(lambda: any(state.tokens for state in scene.table.running.values()))
        started = [line for line, _ in runner.running()]
        runner.stop_claiming()
        assert scene.waiting == 0
        await runner.wait_for_running()
        answered = {outcome.line for outcome in source.outcomes if not outcome.failure}
        assert answered.issuperset(started)
    assert Counter([*answered, *source.released, *source.waiting]) == Counter(lines)
    assert len(answered) < len(lines)


async def test_line_that_no_limit_could_grant_fails_and_holds_up_no_other(
    scene: JobScene,
) -> None:
    short = scene.lines(groups=1)
    long = JobLine(
        key=RecordKey(UUID(int=999), STARTED),
        request=structs.replace(short[0].request, prompt=(*short[0].request.prompt, *[9] * 99)),
    )
    budget = a_limit(value=len(long.request.prompt))
    scene.scheduler.holds.ledger.use([budget])
    source = RequeuingSource([long, *short[:1]])
    async with running(scene, source):
        await scene.until(lambda: len(source.outcomes) == 2)
    failures = {outcome.line: outcome.failure for outcome in source.outcomes}
    assert failures[short[0]] is None
    assert isinstance(failures[long], LineAboveLimit)
    assert "below" in str(failures[long])


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that was refused is tried again soon."""
    monkeypatch.setattr(paused_apps, "MIN_PAUSE_S", 0.05)
    monkeypatch.setattr(paused_apps, "MAX_PAUSE_S", 0.05)


@pytest.mark.usefixtures("short_pauses")
async def test_app_whose_texts_wait_holds_up_no_other(
    scene: JobScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = scene.lines(groups=2)
    other = UUID(int=77)
    for place in range(MEMBERS):
        request = lines[place].request
        caller = structs.replace(request.caller, app_id=other)
        lines[place] = structs.replace(
            lines[place], request=structs.replace(request, caller=caller)
        )
    full, prepare = [True], scene.service.prepare

    async def refusing(request: GenerationRequest) -> PreparedRequest:
        if full and request.caller.app_id == other:
            raise TenantQueueFull("its texts wait", retry_after_s=0.1)
        return await prepare(request)

    monkeypatch.setattr(scene.service, "prepare", refusing)
    source = RequeuingSource(lines)
    async with running(scene, source):
        await scene.until(lambda: len(source.outcomes) == MEMBERS)
        assert not {outcome.line for outcome in source.outcomes} & set(lines[:MEMBERS])
        full.clear()
        await scene.until(lambda: len(source.outcomes) == len(lines))
    check_each_once(source, lines)


async def test_line_that_cannot_be_queued_fails_and_holds_up_no_other(
    scene: JobScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = scene.lines(groups=1)
    start_line = scene.service.start_line

    async def failing(
        request: GenerationRequest, prepared: PreparedRequest, key: RecordKey
    ) -> list[RequestState]:
        if key == lines[2].key:
            raise KeyError("a bug")
        return await start_line(request, prepared, key)

    monkeypatch.setattr(scene.service, "start_line", failing)
    source = ListSource(lines)
    async with running(scene, source):
        await scene.until(lambda: len(source.outcomes) == len(lines))
    failed = {outcome.line for outcome in source.outcomes if outcome.failure}
    assert failed == {lines[2]}


class RequeuingSource(ListSource):
    """A source in which lines that are given back wait again."""

    async def release(self, lines: Sequence[JobLine]) -> None:
        await super().release(lines)
        self.waiting[:0] = lines


@pytest.mark.usefixtures("short_pauses")
async def test_lines_over_a_hard_budget_wait_until_there_is_room_and_none_fails(
    scene: JobScene,
) -> None:
    lines = scene.lines(groups=2)
    budget = a_limit(value=5 * (PREFIX + OWN + ANSWER))
    ledger = scene.scheduler.holds.ledger
    ledger.use([budget])
    source = RequeuingSource(lines)
    async with running(scene, source) as runner:
        await scene.until(lambda: len(source.outcomes) == 5 and source.released)
        assert not source.running.keys() - set(source.waiting)
        ledger.use([])
        runner.wake()
        await scene.until(lambda: len(source.outcomes) == len(lines))
    check_each_once(source, lines)
    assert ledger.open_holds == 0
