"""Runs trials on an engine, and times its steps as a gateway sees them."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from collections.abc import Sequence as Many
from contextlib import asynccontextmanager
from random import Random
from time import perf_counter
from typing import Final, NamedTuple, Protocol

from msgspec import Struct

from engine.protocol import EngineInfo, Refused, Sampling, Sequence, SequenceId, Step
from gateway.engines.colocated import ColocatedEngine
from gateway.errors import EngineLost, GenerationFailed

SEED: Final = 3


class Arriving(Protocol):
    """A sequence to submit once so many steps of its trial have been seen."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of its prompt."""

    @property
    def generation_tokens(self) -> int:
        """Tokens it generates, neither more nor fewer."""

    @property
    def after_steps(self) -> int:
        """Steps of the trial to be seen before."""


class MeasuredStep(Struct, frozen=True):
    """One step: prompt tokens computed, sequences that decoded, KV tokens these read, and times.

    `prefill_reads` are the KV tokens that the prompt tokens read, each those before it. `gap_s` is
    the time since the step before was seen; None where nothing ran before it.
    """

    trial: str
    prefill_tokens: int
    prefill_reads: float
    sequences: int
    kv_tokens: int
    took_s: float
    gap_s: float | None


class Due(NamedTuple):
    """A sequence, and how many steps of its trial are to be seen before it is submitted."""

    after_steps: int
    sequence: Sequence


class Followed:
    """A trial under way: what each step computed, told from its tokens and its count alone.

    `waits` are the times of the whole steps between the submission of a sequence and the step it
    begins in, of those submitted beside others. `orders_s` are the times that first steps after a
    rest came later than they took: the way of an order to the engine, and of the news back.
    """

    def __init__(self, trial: str, arrivals: Many[Due]) -> None:
        self.steps: list[MeasuredStep] = []
        self.waits: list[list[float]] = []
        self.orders_s: list[float] = []
        self.longest_prompt = max((len(due.sequence.prompt) for due in arrivals), default=0)
        self._trial = trial
        self._due = deque(sorted(arrivals, key=lambda due: due.after_steps))
        self._prompts: dict[SequenceId, int] = {}  # tokens still to compute, in submit order
        self._lengths: dict[SequenceId, int] = {}  # of each sequence not ended, in tokens known
        self._awaited: dict[SequenceId, int] = {}  # steps seen when it was submitted
        self._seen_s: float | None = None
        self._asked_s = 0.0  # when the first sequence after a rest was submitted

    @property
    def ended(self) -> bool:
        """Whether every sequence came to its end."""
        return not (self._due or self._lengths)

    def due(self, now_s: float) -> list[Sequence]:
        """Sequences to submit now, the next one too where nothing runs; they count as submitted."""
        found: list[Sequence] = []
        while self._due and (self._due[0].after_steps <= len(self.steps) or not self._lengths):
            sequence = self._due.popleft().sequence
            if not self._lengths:
                self._asked_s = now_s
            elif self.steps:
                self._awaited[sequence.id] = len(self.steps)
            self._prompts[sequence.id] = self._lengths[sequence.id] = len(sequence.prompt)
            found.append(sequence)
        return found

    def take(self, step: Step, seen_s: float) -> None:
        """Account for a step. GenerationFailed where a sequence ended before its length."""
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
            self.orders_s.append(seen_s - self._asked_s - step.took_s)
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
        """Give so many computed tokens to prompts, in order of submission; what they read."""
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
    """An engine that runs one trial after another. Its listener: told by the client alone."""

    def __init__(self, socket: str) -> None:
        self._client = ColocatedEngine(socket)
        self._random = Random(SEED)
        self._info: asyncio.Future[EngineInfo] = asyncio.get_running_loop().create_future()
        self._followed: Followed | None = None
        self._ended: asyncio.Future[Followed] | None = None
        self._trials = 0

    async def start(self) -> None:
        """Begin to connect."""
        await self._client.start(self)

    async def close(self) -> None:
        """Drop the connection."""
        await self._client.close()

    async def info(self) -> EngineInfo:
        """The engine's description, once it is there."""
        return await asyncio.shield(self._info)

    async def run(self, trial: str, arrivals: Many[Arriving]) -> Followed:
        """Run a trial from its start, with nothing beside it, to its end.

        EngineLost where the engine goes away meanwhile, or another gateway takes it over.
        """
        info = await self.info()
        self._trials += 1
        due = [
            Due(arrival.after_steps, self._sequence(number, arrival, info.vocabulary))
            for number, arrival in enumerate(arrivals)
        ]
        self._followed = Followed(trial, due)
        self._ended = asyncio.get_running_loop().create_future()
        self._submit()
        return await self._ended

    def engine_ready(self, info: EngineInfo) -> None:
        """The engine is there."""
        if not self._info.done():
            self._info.set_result(info)

    def engine_stepped(self, step: Step) -> None:
        """Account for a step of the trial, and submit what it makes due."""
        if self._followed is None or self._ended is None or self._ended.done():
            return
        try:
            self._followed.take(step, perf_counter())
        except GenerationFailed as error:
            self._ended.set_exception(error)
            return
        self._submit()
        if self._followed.ended:
            self._ended.set_result(self._followed)

    def engine_refused(self, refused: Many[Refused]) -> None:
        """The engine will not run a trial of ours."""
        self._fail(GenerationFailed(f"the engine refused a sequence: {refused[0].reason}"))

    def engine_lost(self) -> None:
        """The engine went away, or was taken over."""
        self._fail(
            EngineLost("the engine went away while it was measured, or a gateway took it over")
        )

    def _fail(self, error: EngineLost | GenerationFailed) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)

    def _submit(self) -> None:
        assert self._followed is not None
        due = self._followed.due(perf_counter())
        if due:
            self._client.submit("measured", due)

    def _sequence(self, number: int, arrival: Arriving, vocabulary: int) -> Sequence:
        """Random tokens, drawn anew at random; nothing is shared, and nothing ends it early."""
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
    """A connection to the engine on a socket, which no gateway may use meanwhile."""
    engine = MeasuredEngine(socket)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()
