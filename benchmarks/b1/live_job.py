"""B1's job run live: by the job runner in groups, or by the engine alone in order of arrival."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Final, TypeAlias
from uuid import UUID

import httpx
import numpy as np
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from benchmarks.b1.job import ANSWER, OWN, PAGE_TOKENS, random_tokens
from benchmarks.engine.client import EngineProcess
from benchmarks.engine.workload import Request
from engine.protocol import Sampling
from engine.protocol import Sequence as EngineSequence
from gateway.engines.colocated import ColocatedEngine
from gateway.generation.request import GenerationRequest, RecordKey
from gateway.generation.scheduler import Scheduler
from gateway.generation.service import GenerationService
from gateway.generation.text.tokenizer import ChatTokenizer
from gateway.generation.text.workers import TextWorkers
from gateway.history.disk.journal import Begun
from gateway.history.record import Record
from gateway.jobs.planning.plan import JobPlan, plan_lines
from gateway.jobs.prefix_groups import ALONE
from gateway.jobs.prompts import JobPrompts
from gateway.jobs.runner import JobLine, JobRunner, LineOutcome
from gateway.prediction.serving.predictor import LengthPredictor
from gateway.scheduling.policy import Options
from gateway.scheduling.requests import SharedPrefix
from gateway.tenancy.caller import Caller

CANCELLED_SHARE: Final = 0.1  # of the lines, in the run with cancels
TIMEOUT_S: Final = 900.0
STARTED: Final = datetime(2026, 1, 1, tzinfo=UTC)
CHECK_S: Final = 0.05  # between looks for the end, and for lines to cancel
WARM_UP_LINES: Final = 64
COUNTED: Final = ("computed_tokens", "preemptions", "pins_lost")
GREEDY: Final = Sampling(temperature=0.0)
CALLER: Final = Caller(
    tenant_id=UUID(int=1),
    tenant="B1",
    app_id=UUID(int=2),
    app="B1",
    api_key_id=UUID(int=3),
    instruction=None,
)


Planned: TypeAlias = list[tuple[JobLine, Request]]


class LiveRun(Struct, frozen=True):
    """A run: prompt tokens computed, the answers' tokens by line, preemptions, pins lost, faults.

    `wrong` is what the engine's audit of its pages found.
    """

    prefilled: int
    answers: dict[str, list[int]]
    wall_s: float
    preemptions: int
    pins_lost: int
    wrong: str | None


def run_in_order_of_arrival(engine: EngineProcess, lines: Sequence[Request]) -> LiveRun:
    """The engine alone gets all lines at once; it caches prefixes by last use."""
    trace = engine.run(
        [EngineSequence(line.id, line.prompt, line.tokens, line.tokens) for line in lines]
    )
    if trace.failed:
        raise RuntimeError(f"the engine failed {trace.failed} of {len(lines)} lines")
    return LiveRun(
        prefilled=_prefilled(trace.counted["computed_tokens"], trace.tokens),
        answers=trace.tokens,
        wall_s=trace.wall_s,
        preemptions=int(trace.counted["preemptions"]),
        pins_lost=0,
        wrong=_audit(engine),
    )


def run_in_groups(
    engine: EngineProcess, folder: Path, lines: Sequence[Request], *, cancel_seed: int | None = None
) -> LiveRun:
    """The gateway's planner, runner and scheduler; with a seed, random lines are cancelled.

    Other lines with answers of the same length run before, so that predictions are exact.
    """
    answers, wall_s, counted = asyncio.run(_run(engine, folder, lines, cancel_seed))
    return LiveRun(
        prefilled=_prefilled(counted["computed_tokens"], answers),
        answers=answers,
        wall_s=wall_s,
        preemptions=int(counted["preemptions"]),
        pins_lost=int(counted["pins_lost"]),
        wrong=_audit(engine),
    )


class PlannedLines:
    """The lines in the plan's order, in memory; the source of a runner."""

    def __init__(self, lines: Sequence[JobLine], cancelled: frozenset[UUID]) -> None:
        self.answers: dict[UUID, list[int]] = {}
        self.ended = asyncio.Event()
        self._waiting = list(lines)
        self._left = len(lines)
        self._cancelled = cancelled
        self._failure: str | None = None

    async def claim(self, count: int, without: Collection[UUID] = ()) -> Sequence[JobLine]:
        """The next lines; no limit holds any app back."""
        assert not without
        claimed, self._waiting = self._waiting[:count], self._waiting[count:]
        return claimed

    async def finished(self, outcomes: Sequence[LineOutcome]) -> None:
        """Keep the answers. RuntimeError if a line failed."""
        for outcome in outcomes:
            if outcome.failure is not None:
                self._failure = outcome.failure.message
                self.ended.set()
            self._done(outcome.line, outcome.states[0].tokens if outcome.states else [])

    async def release(self, lines: Sequence[JobLine]) -> None:
        """None is released: the runner closes when all lines have ended."""
        assert not lines

    async def lost(self, lines: Sequence[JobLine]) -> Sequence[JobLine]:
        """Those that are to be cancelled."""
        lost = [line for line in lines if line.key.id in self._cancelled]
        for line in lost:
            self._done(line, [])
        return lost

    def check(self) -> None:
        """RuntimeError if a line failed."""
        if self._failure is not None:
            raise RuntimeError(f"a line failed: {self._failure}")

    def _done(self, line: JobLine, tokens: list[int]) -> None:
        if line.key.id not in self.answers:
            self.answers[line.key.id] = tokens
            self._left -= 1
            if not self._left:
                self.ended.set()


class _NoHistory:
    """Records nothing."""

    full = False

    def note_starts(self, begun: Sequence[Begun]) -> None:
        """Ignored."""

    def record(self, record: Record, released: Callable[[], None]) -> None:  # noqa: ARG002
        """Released at once."""
        released()


async def _run(
    engine: EngineProcess, folder: Path, lines: Sequence[Request], cancel_seed: int | None
) -> tuple[dict[str, list[int]], float, Mapping[str, float]]:
    """The answers by line, the seconds that they took, and the engine's counts in these."""
    workers = TextWorkers()
    predictor = LengthPredictor(
        model="B1", model_hash="", budget_s=0.0, sessions=async_sessionmaker[AsyncSession]()
    )
    client = ColocatedEngine(engine.socket)
    scheduler = Scheduler(
        "B1", [client], _NoHistory(), predictor, policy="lmaas", options=Options(), tau_floor=0.2
    )
    await scheduler.start()
    await scheduler.engine.ready()
    service = GenerationService("B1", ChatTokenizer(folder), predictor, scheduler, workers)
    try:
        await _run_lines(service, planned_lines(_warm_up()), frozenset())
        before = await asyncio.to_thread(engine.stats)
        planned = planned_lines(lines)
        answers, wall_s = await _run_lines(service, planned, _drawn(planned, cancel_seed))
        after = await asyncio.to_thread(engine.stats)
    finally:
        await client.close()
        workers.close()
    return answers, wall_s, {name: after[name] - before[name] for name in COUNTED}


async def _run_lines(
    service: GenerationService, planned: Planned, cancelled: frozenset[UUID]
) -> tuple[dict[str, list[int]], float]:
    """The answers by line, and the seconds from the start of a runner to its end."""
    source = PlannedLines([line for line, _ in planned], cancelled)
    runner = JobRunner(source, service, Counter())
    start_s = perf_counter()
    runner.start()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while not source.ended.is_set():
                await asyncio.sleep(CHECK_S)
                if cancelled:
                    await runner.drop_lost()
        source.check()
        wall_s = perf_counter() - start_s
    finally:
        await runner.close()
    ids = {line.key.id: request.id for line, request in planned}
    return {ids[line]: tokens for line, tokens in source.answers.items()}, wall_s


def _drawn(planned: Planned, seed: int | None) -> frozenset[UUID]:
    """The lines to cancel: none without a seed."""
    if seed is None:
        return frozenset()
    rng = Random(seed)
    return frozenset(line.key.id for line, _ in planned if rng.random() < CANCELLED_SHARE)


def _warm_up() -> list[Request]:
    rng = Random(0)
    return [Request(f"warm-{n}", random_tokens(rng, OWN), ANSWER) for n in range(WARM_UP_LINES)]


def planned_lines(lines: Sequence[Request]) -> Planned:
    """The lines with their groups, in the order in which they are to start."""
    prompts = JobPrompts.of(line.prompt for line in lines)
    expected = np.array([line.tokens for line in lines], dtype=np.float64)
    plan = plan_lines(prompts, expected, page_tokens=PAGE_TOKENS, salt="B1")
    return [
        (_job_line(number, lines[number], _prefix(plan, number)), lines[number])
        for number in np.argsort(plan.ranks).tolist()
    ]


def _prefix(plan: JobPlan, number: int) -> SharedPrefix | None:
    group = int(plan.groups.group_of[number])
    if group == ALONE:
        return None
    return SharedPrefix(plan.ids[group], int(plan.groups.prefix_tokens[group]))


def _job_line(number: int, line: Request, prefix: SharedPrefix | None) -> JobLine:
    return JobLine(
        key=RecordKey(UUID(int=number + 1), STARTED),
        request=GenerationRequest(
            caller=CALLER,
            prompt=tuple(line.prompt),
            max_tokens=line.tokens,
            sampling=GREEDY,
            lane="batch",
            prefix=prefix,
        ),
    )


def _prefilled(computed: float, answers: dict[str, list[int]]) -> int:
    """Computed prompt tokens: all computed tokens except the generated ones fed back."""
    return int(computed) - sum(len(tokens) - 1 for tokens in answers.values() if tokens)


def _audit(engine: EngineProcess) -> str | None:
    transport = httpx.HTTPTransport(uds=engine.socket)
    with httpx.Client(transport=transport, base_url="http://engine", timeout=60.0) as http:
        found: str | None = http.get("/audit").raise_for_status().json()["wrong"]
    return found
