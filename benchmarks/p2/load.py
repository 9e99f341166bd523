"""Requests that come in as they will, asked of a real predictor, and what each waited."""

import asyncio
import gc
import itertools
import os
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Final
from uuid import uuid5

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from gateway.evaluation.arrivals import MAX_TOKENS, TENANT, app_id
from gateway.evaluation.corpus import CorpusLine
from gateway.evaluation.lengths import count_words
from gateway.prediction.messages import PredictionRequest
from gateway.prediction.serving.predictor import LengthPredictor
from gateway.quantiles import Floats

TICK_S: Final = 0.001
NEW_APPS: Final = 20
NEW_SHARE: Final = 0.05  # of the requests come from these
SEED: Final = 1


class Waits(Struct, frozen=True):
    """Quantiles of times, in milliseconds."""

    p50: float
    p99: float
    p999: float
    longest: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Waits":
        """Of n ≥ 1 times."""
        p50, p99, p999, longest = np.quantile(seconds, (0.5, 0.99, 0.999, 1.0)) * 1000
        return cls(float(p50), float(p99), float(p999), float(longest))


class Passage(Struct, frozen=True):
    """What a run brought: a time and a source for each request, and how late each tick came."""

    waited_s: list[float]
    sources: list[str]
    late_s: list[float]
    timed_out: int
    unavailable: int
    wall_s: float

    @property
    def by_source(self) -> Counter[str]:
        """How many predictions came from where."""
        return Counter(self.sources)


def arrivals(rate: float, seconds: float, seed: int) -> Floats:
    """When requests arrive, in seconds from the start: a Poisson process, the same every time."""
    random = np.random.default_rng(seed)
    most = int(rate * seconds + 10 * (rate * seconds) ** 0.5 + 10)
    times: Floats = np.cumsum(random.exponential(1 / rate, most))
    return times[times < seconds]


def prediction_requests(lines: Sequence[CorpusLine], seed: int = SEED) -> list[PredictionRequest]:
    """A question for each distinct input among the lines, in a random order.

    Some come from apps that no version has seen, with instructions of their own.
    """
    random = np.random.default_rng(seed)
    distinct = list({line.input: line for line in lines}.values())
    ordered = [distinct[row] for row in random.permutation(len(distinct)).tolist()]
    words = count_words([line.input for line in ordered]).tolist()
    fixed = {text: len(text.split()) for text in {line.instruction for line in ordered}}
    numbers = random.integers(NEW_APPS, size=len(ordered))
    news = np.where(random.random(len(ordered)) < NEW_SHARE, numbers, -1)
    return [
        _prediction_request(line, count, count + fixed[line.instruction], new)
        for line, count, new in zip(ordered, words, news.tolist(), strict=True)
    ]


def with_new_instructions(asked: Sequence[PredictionRequest]) -> list[PredictionRequest]:
    """The same questions, no two of which have an instruction in common."""
    return [
        replace(request, instruction=f"{request.instruction} (No. {number})")
        for number, request in enumerate(asked)
    ]


def _prediction_request(line: CorpusLine, words: int, prompt: int, new: int) -> PredictionRequest:
    unseen = new >= 0
    return PredictionRequest(
        tenant=TENANT,
        app=uuid5(TENANT, f"new {new}") if unseen else app_id(line.app),
        end_user=None,
        instruction=f"{line.instruction} Be as new as app {new}." if unseen else line.instruction,
        user_input=line.input,
        user_input_tokens=words,
        prompt_tokens=prompt,
        max_tokens=MAX_TOKENS,
        temperature=1.0,
        top_p=1.0,
    )


async def offer(
    predictor: LengthPredictor, asked: Sequence[PredictionRequest], at_s: Sequence[float]
) -> Passage:
    """Ask one question at each time, whether those before are answered or not."""
    waited_s: list[float] = []
    sources: list[str] = []

    async def ask(request: PredictionRequest) -> None:
        began = perf_counter()
        prediction = await predictor.predict(request)
        waited_s.append(perf_counter() - began)
        sources.append(prediction.source)

    counts = replace(predictor.counts)
    late_s: list[float] = []
    ticking = asyncio.create_task(tick(late_s))
    began = perf_counter()
    async with asyncio.TaskGroup() as running:
        for due_s, request in zip(at_s, asked, strict=True):
            await asyncio.sleep(max(began + due_s - perf_counter(), 0.0))
            running.create_task(ask(request))
    wall_s = perf_counter() - began
    ticking.cancel()
    return Passage(
        waited_s,
        sources,
        late_s,
        predictor.counts.timed_out - counts.timed_out,
        predictor.counts.unavailable - counts.unavailable,
        wall_s,
    )


async def tick(late_s: list[float]) -> None:
    """Note by how much each tick of the event loop is late; a long stall makes many late."""
    began = perf_counter()
    for number in itertools.count(1):
        due = began + number * TICK_S
        await asyncio.sleep(max(due - perf_counter(), 0.0))
        late_s.append(max(perf_counter() - due, 0.0))


async def warm_up(predictor: LengthPredictor, lines: Sequence[CorpusLine]) -> None:
    """Return once the instructions of the lines' apps are embedded, as those of old apps are."""
    known = {(line.app, line.instruction): line for line in lines}
    due = deque(
        _prediction_request(replace(line, input="warm up"), 2, 10, -1) for line in known.values()
    )
    while due:
        if (await predictor.predict(due[0])).embeddings.instruction is not None:
            due.popleft()
        await asyncio.sleep(0.01)


async def settle(predictor: LengthPredictor, request: PredictionRequest) -> None:
    """Return once the process has no backlog."""
    source = None
    while source != "model":
        await asyncio.sleep(0.1)
        source = (await predictor.predict(request)).source
    gc.collect()


def pin(pid: int, cores: set[int]) -> None:
    """Keep all threads of a process on some cores; 0 is this process."""
    for thread in Path(f"/proc/{pid or 'self'}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)
