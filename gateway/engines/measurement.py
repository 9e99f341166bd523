"""Runs calibration trials on an engine and measures its steps from the gateway's side."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from collections.abc import Sequence as Many
from contextlib import asynccontextmanager
from random import Random
from time import perf_counter
from typing import Final, NamedTuple, Protocol

from msgspec import Struct

from engine.protocol import EngineInfo, Refused, Sampling, Sequence, SequenceId, Starting, Step
from gateway.engines.colocated import ColocatedEngine
from gateway.errors import EngineLost, GenerationFailed

SEED: Final = 3


class TrialArrival(Protocol):
    """A sequence of a trial, submitted after `after_steps` steps."""

    @property
    def prompt_tokens(self) -> int:
        """Prompt tokens."""

    @property
    def generation_tokens(self) -> int:
        """Exact number of tokens to generate."""

    @property
    def after_steps(self) -> int:
        """Steps of the trial before its submission."""


class MeasuredStep(Struct, frozen=True):
    """One step: prompt tokens computed, sequences decoded, KV tokens these read, and times.

    `prefill_reads` counts the KV tokens read by prompt tokens, each reading those before it.
    `took_s` is the engine's step time; `gap_s` is the time since the previous step was received,
    None if the engine was idle before.
    """

    trial: str
    prefill_tokens: int
    prefill_reads: float
    sequences: int
    kv_tokens: int
    took_s: float
    gap_s: float | None


class ScheduledSequence(NamedTuple):
    """A sequence, submitted after `after_steps` steps of its trial."""

    after_steps: int
    sequence: Sequence


class TrialProgress:
    """A running trial; derives what each step computed from its tokens and token count.

    `waits` lists, per sequence submitted while others ran, the times of the steps between its
    submission and its first step. `orders_s` are round trips to the engine: the delay of the first
    step after an idle time, less the step's own time.
    """

    def __init__(self, trial: str, arrivals: Many[ScheduledSequence]) -> None:
        self.steps: list[MeasuredStep] = []
        self.waits: list[list[float]] = []
        self.orders_s: list[float] = []
        self.longest_prompt = max((len(due.sequence.prompt) for due in arrivals), default=0)
        self._trial = trial
        self._due = deque(sorted(arrivals, key=lambda due: due.after_steps))
        self._prompts: dict[SequenceId, int] = {}  # tokens left to compute, in submit order
        self._lengths: dict[SequenceId, int] = {}  # tokens so far, of unfinished sequences
        self._awaited: dict[SequenceId, int] = {}  # number of steps at its submission
        self._seen_s: float | None = None
        self._idle_submit_s = 0.0  # submission time of the first sequence after an idle time

    @property
    def ended(self) -> bool:
        """Whether every sequence has finished."""
        return not (self._due or self._lengths)

    def due(self, now_s: float) -> list[Sequence]:
        """Sequences to submit now, counted as submitted; an idle engine gets the next one early."""
        found: list[Sequence] = []
        while self._due and (self._due[0].after_steps <= len(self.steps) or not self._lengths):
            sequence = self._due.popleft().sequence
            if not self._lengths:
                self._idle_submit_s = now_s
            elif self.steps:
                self._awaited[sequence.id] = len(self.steps)
            self._prompts[sequence.id] = self._lengths[sequence.id] = len(sequence.prompt)
            found.append(sequence)
        return found

    def take(self, step: Step, seen_s: float) -> None:
        """Record a step. GenerationFailed if a sequence ended before its length."""
        for finish in step.finished:
            if finish.reason != "length":
                raise GenerationFailed(f"a sequence ended early: {finish.message or finish.reason}")
        if step.computed:
            self.steps.append(self._measured(step, seen_s))
            self._seen_s = seen_s
        for sequence_id, tokens in step.tokens.items():
            self._lengths[sequence_id] += len(tokens)
        for finish in step.finished:
            del self._lengths[finish.id]
        if not self._lengths:
            self._seen_s = None

    def _measured(self, step: Step, seen_s: float) -> MeasuredStep:
        if self._seen_s is None:
            self.orders_s.append(seen_s - self._idle_submit_s - step.took_s)
        decoding = [name for name in step.tokens if name not in self._prompts]
        prefilled = step.computed - len(decoding)
        return MeasuredStep(
            trial=self._trial,
            prefill_tokens=prefilled,
            prefill_reads=self._prefill(prefilled),
            sequences=len(decoding),
            kv_tokens=sum(self._lengths[name] for name in decoding),
            took_s=step.took_s,
            gap_s=None if self._seen_s is None else seen_s - self._seen_s,
        )

    def _prefill(self, tokens: int) -> float:
        """Assign computed tokens to prompts in submission order; return the KV tokens they read."""
        reads = 0.0
        for name, left in list(self._prompts.items()):
            chunk = min(tokens, left)
            if not chunk:
                break
            start = self._lengths[name] - left
            reads += chunk * (start + chunk / 2)
            tokens -= chunk
            self._prompts[name] -= chunk
            if name in self._awaited:
                passed = self.steps[self._awaited.pop(name) :]
                self.waits.append([step.took_s for step in passed])
            if not self._prompts[name]:
                del self._prompts[name]
        return reads


class MeasuredEngine:
    """An engine that runs one trial after another; it listens to its own client."""

    def __init__(self, socket: str) -> None:
        self._client = ColocatedEngine(socket)
        self._random = Random(SEED)
        self._info: asyncio.Future[EngineInfo] = asyncio.get_running_loop().create_future()
        self._progress: TrialProgress | None = None
        self._ended: asyncio.Future[TrialProgress] | None = None
        self._trials = 0

    async def start(self) -> None:
        """Start to connect."""
        await self._client.start(self)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()

    async def info(self) -> EngineInfo:
        """Wait for the engine and return its description."""
        return await asyncio.shield(self._info)

    async def run(self, trial: str, arrivals: Many[TrialArrival]) -> TrialProgress:
        """Run a trial alone, from start to end.

        EngineLost if the engine disconnects meanwhile or another gateway takes it over.
        """
        info = await self.info()
        self._trials += 1
        due = [
            ScheduledSequence(arrival.after_steps, self._sequence(number, arrival, info.vocabulary))
            for number, arrival in enumerate(arrivals)
        ]
        self._progress = TrialProgress(trial, due)
        self._ended = asyncio.get_running_loop().create_future()
        self._submit()
        return await self._ended

    def engine_ready(self, info: EngineInfo) -> None:
        """The engine is connected."""
        if not self._info.done():
            self._info.set_result(info)

    def engine_stepped(self, step: Step) -> None:
        """Record a step of the trial and submit the sequences now due."""
        if self._progress is None or self._ended is None or self._ended.done():
            return
        try:
            self._progress.take(step, perf_counter())
        except GenerationFailed as error:
            self._ended.set_exception(error)
            return
        self._submit()
        if self._progress.ended:
            self._ended.set_result(self._progress)

    def engine_refused(self, refused: Many[Refused]) -> None:
        """The engine refuses a sequence of the trial."""
        self._fail(GenerationFailed(f"the engine refused a sequence: {refused[0].reason}"))

    def engine_lost(self) -> None:
        """The engine disconnected or was taken over."""
        self._fail(
            EngineLost("the engine disconnected during a measurement, or a gateway took it over")
        )

    def engine_starting(self, starting: Starting) -> None:
        """The engine is waited for."""

    def _fail(self, error: EngineLost | GenerationFailed) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)

    def _submit(self) -> None:
        assert self._progress is not None
        due = self._progress.due(perf_counter())
        if due:
            self._client.submit("measured", due)

    def _sequence(self, number: int, arrival: TrialArrival, vocabulary: int) -> Sequence:
        """A random prompt, sampled at temperature 1: no shared prefix, and no early end."""
        name = f"{self._trials}.{number}"
        return Sequence(
            id=name,
            prompt=[self._random.randrange(vocabulary) for _ in range(arrival.prompt_tokens)],
            max_tokens=arrival.generation_tokens,
            reserve=arrival.generation_tokens,
            sampling=Sampling(temperature=1.0, seed=number),
            salt=name,
        )


@asynccontextmanager
async def measured_engine(socket: str) -> AsyncIterator[MeasuredEngine]:
    """Connect to the engine on a socket; no gateway may use it meanwhile."""
    engine = MeasuredEngine(socket)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()
