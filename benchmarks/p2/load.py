"""Open-loop load on a real predictor: latency of each prediction, delay of the event loop."""

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

from gateway.evaluation.arrivals import TENANT, app_id
from gateway.evaluation.corpus import CorpusLine
from gateway.evaluation.lengths import MAX_TOKENS, count_words
from gateway.prediction.messages import PredictionRequest
from gateway.prediction.serving.predictor import LengthPredictor
from gateway.quantiles import Floats

TICK_S: Final = 0.001
NEW_APPS: Final = 20
NEW_APP_SHARE: Final = 0.05  # of the requests, from new apps
SEED: Final = 1


class LatencyQuantiles(Struct, frozen=True):
    """Quantiles of durations, in milliseconds."""

    p50: float
    p99: float
    p999: float
    maximum: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "LatencyQuantiles":
        """Of n ≥ 1 durations in seconds."""
        p50, p99, p999, maximum = np.quantile(seconds, (0.5, 0.99, 0.999, 1.0)) * 1000
        return cls(float(p50), float(p99), float(p999), float(maximum))


class LoadRun(Struct, frozen=True):
    """The result of a run: wait and source of each prediction, and the delay of each tick."""

    waited_s: list[float]
    sources: list[str]
    tick_delays_s: list[float]
    timed_out: int
    unavailable: int
    wall_s: float

    @property
    def by_source(self) -> Counter[str]:
        """The number of predictions per source."""
        return Counter(self.sources)


def arrival_times(rate: float, seconds: float, seed: int) -> Floats:
    """Arrival times of a Poisson process in seconds from the start, the same for a seed."""
    random = np.random.default_rng(seed)
    most = int(rate * seconds + 10 * (rate * seconds) ** 0.5 + 10)
    times: Floats = np.cumsum(random.exponential(1 / rate, most))
    return times[times < seconds]


def prediction_requests(lines: Sequence[CorpusLine], seed: int = SEED) -> list[PredictionRequest]:
    """A request for each distinct input of the lines, in random order.

    Some are of apps without training data, with instructions of their own.
    """
    random = np.random.default_rng(seed)
    distinct = list({line.input: line for line in lines}.values())
    ordered = [distinct[row] for row in random.permutation(len(distinct)).tolist()]
    words = count_words([line.input for line in ordered]).tolist()
    fixed = {text: len(text.split()) for text in {line.instruction for line in ordered}}
    numbers = random.integers(NEW_APPS, size=len(ordered))
    news = np.where(random.random(len(ordered)) < NEW_APP_SHARE, numbers, -1)
    return [
        _prediction_request(line, count, count + fixed[line.instruction], new)
        for line, count, new in zip(ordered, words, news.tolist(), strict=True)
    ]


def with_new_instructions(requests: Sequence[PredictionRequest]) -> list[PredictionRequest]:
    """The same requests with an instruction of its own each."""
    return [
        replace(request, instruction=f"{request.instruction} (No. {number})")
        for number, request in enumerate(requests)
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


async def run_load(
    predictor: LengthPredictor, requests: Sequence[PredictionRequest], at_s: Sequence[float]
) -> LoadRun:
    """Send a request at each of the times, whether earlier ones have been answered or not."""
    waited_s: list[float] = []
    sources: list[str] = []

    async def ask(request: PredictionRequest) -> None:
        began = perf_counter()
        prediction = await predictor.predict(request)
        waited_s.append(perf_counter() - began)
        sources.append(prediction.source)

    counts = replace(predictor.counts)
    tick_delays_s: list[float] = []
    ticking = asyncio.create_task(measure_ticks(tick_delays_s))
    began = perf_counter()
    async with asyncio.TaskGroup() as running:
        for due_s, request in zip(at_s, requests, strict=True):
            await asyncio.sleep(max(began + due_s - perf_counter(), 0.0))
            running.create_task(ask(request))
    wall_s = perf_counter() - began
    ticking.cancel()
    return LoadRun(
        waited_s,
        sources,
        tick_delays_s,
        predictor.counts.timed_out - counts.timed_out,
        predictor.counts.unavailable - counts.unavailable,
        wall_s,
    )


async def measure_ticks(tick_delays_s: list[float]) -> None:
    """Record the delay of each tick of the event loop; a long stall delays many ticks."""
    began = perf_counter()
    for number in itertools.count(1):
        due = began + number * TICK_S
        await asyncio.sleep(max(due - perf_counter(), 0.0))
        tick_delays_s.append(max(perf_counter() - due, 0.0))


async def warm_up(predictor: LengthPredictor, lines: Sequence[CorpusLine]) -> None:
    """Return once the instructions of the lines' apps are embedded."""
    known = {(line.app, line.instruction): line for line in lines}
    due = deque(
        _prediction_request(replace(line, input="warm up"), 2, 10, -1) for line in known.values()
    )
    while due:
        if (await predictor.predict(due[0])).embeddings.instruction is not None:
            due.popleft()
        await asyncio.sleep(0.01)


async def drain(predictor: LengthPredictor, request: PredictionRequest) -> None:
    """Return once the process has answered its backlog."""
    source = None
    while source != "model":
        await asyncio.sleep(0.1)
        source = (await predictor.predict(request)).source
    gc.collect()


def pin(pid: int, cores: set[int]) -> None:
    """Pin all threads of a process to cores; 0 is this process."""
    for thread in Path(f"/proc/{pid or 'self'}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores)
