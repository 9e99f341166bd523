"""Load on a gateway's service: the prediction of each start, and delays of the event loop."""

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from time import perf_counter
from typing import Final
from uuid import UUID

import numpy as np
from msgspec import Struct

from gateway.evaluation.arrivals import TENANT, app_id
from gateway.evaluation.corpus import CorpusLine
from gateway.generation.dispatch_sources import MIN_WAIT_S
from gateway.generation.request import GenerationRequest, Message
from gateway.generation.request_state import RequestState
from gateway.generation.service import GenerationService
from gateway.quantiles import Floats
from gateway.tenancy.caller import Caller

TICK_S: Final = 0.001
MAX_CHARACTERS: Final = 400  # of instruction and input: a prompt that fits any model's context
SETTLE_S: Final = 20.0  # after the last arrival; what has not started by then is given up
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


class OfferedLoad(Struct, frozen=True):
    """Bursts of `size` requests at once, `rounds` of them, or `rate` a second for `seconds`."""

    size: int = 1
    rounds: int = 1
    rate: float = 0.0
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.rate:g}/s" if self.rate else f"burst of {self.size}"


class LoadRun(Struct, frozen=True):
    """The result of a run.

    Of each request that started: its wait, and the source of the prediction that it went by.
    `predicted_s` has the seconds from arrival to the model's first prediction, of all requests.
    """

    waited_s: list[float]
    sources: list[str]
    predicted_s: list[float]
    tick_delays_s: list[float]
    unstarted: int = 0

    @property
    def late_sources(self) -> Counter[str]:
        """The number of starts per source, of requests that waited `MIN_WAIT_S` or longer."""
        pairs = zip(self.waited_s, self.sources, strict=True)
        return Counter(source for waited_s, source in pairs if waited_s >= MIN_WAIT_S)

    @property
    def by_model(self) -> float | None:
        """The share of these that the model ordered; None if none waited that long."""
        late = self.late_sources
        model = sum(count for source, count in late.items() if source.startswith("model"))
        return model / late.total() if late else None


def arrival_times(load: OfferedLoad, seed: int) -> Floats:
    """Arrival times in seconds from the start, the same for a seed: Poisson, or all at once."""
    if not load.rate:
        return np.zeros(load.size)
    random = np.random.default_rng(seed)
    count = load.rate * load.seconds
    most = int(count + 10 * count**0.5 + 10)
    times: Floats = np.cumsum(random.exponential(1 / load.rate, most))
    return times[times < load.seconds]


def generation_requests(lines: Sequence[CorpusLine], max_tokens: int) -> list[GenerationRequest]:
    """A request for each distinct input of the shorter lines, in random order."""
    short = [line for line in lines if len(line.instruction) + len(line.input) <= MAX_CHARACTERS]
    distinct = list({line.input: line for line in short}.values())
    order = np.random.default_rng(SEED).permutation(len(distinct)).tolist()
    return [_request(distinct[row], max_tokens) for row in order]


def _request(line: CorpusLine, max_tokens: int) -> GenerationRequest:
    caller = Caller(
        tenant_id=TENANT,
        tenant="P2",
        app_id=app_id(line.app),
        app=line.app,
        api_key_id=UUID(int=1),
        instruction=line.instruction,
    )
    return GenerationRequest(
        caller=caller, messages=(Message("user", line.input),), max_tokens=max_tokens
    )


async def warm_up(service: GenerationService, request: GenerationRequest) -> None:
    """Return once the predictor process embeds instructions, too: it loads that model by itself."""
    embedding = None
    while embedding is None:
        embedding = (await service.prepare(request)).prediction.embeddings.instruction
        await asyncio.sleep(0.1)


async def run_load(
    service: GenerationService, requests: Sequence[GenerationRequest], at_s: Sequence[float]
) -> LoadRun:
    """Send a request at each of the times, whether earlier ones have started or not."""
    states: list[RequestState] = []
    predicted_s: list[float] = []

    async def ask(request: GenerationRequest) -> None:
        [state] = await service.start(request)
        states.append(state)
        if state.opened is not None:
            await state.opened.scored(inf)
            if state.opened.newest.predictor is not None:
                predicted_s.append(asyncio.get_running_loop().time() - state.arrived_s)

    tick_delays_s: list[float] = []
    ticking = asyncio.create_task(measure_ticks(tick_delays_s))
    began = perf_counter()
    async with asyncio.TaskGroup() as running:
        for due_s, request in zip(at_s, requests, strict=True):
            await asyncio.sleep(max(began + due_s - perf_counter(), 0.0))
            running.create_task(ask(request))
    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            for state in states:
                await state.wait_for_end()
    ticking.cancel()
    for state in states:
        service.cancel(state)
    started = [state for state in states if state.dispatched_s is not None]
    return LoadRun(
        [(state.dispatched_s or 0.0) - state.arrived_s for state in started],
        [state.trace.prediction or "" for state in started],
        predicted_s,
        tick_delays_s,
        len(states) - len(started),
    )


async def measure_ticks(tick_delays_s: list[float]) -> None:
    """Record the delay of each tick of the event loop.

    A stall delays all ticks that are due in it. They count when the loop comes back, at once: if
    each took a turn of its own, a busy loop's short turns would add up to a long delay.
    """
    due = perf_counter() + TICK_S
    while True:
        await asyncio.sleep(max(due - perf_counter(), 0.0))
        now = perf_counter()
        while due <= now:
            tick_delays_s.append(now - due)
            due += TICK_S


def pin(pid: int, cores: set[int]) -> None:
    """Pin all threads of a process to cores; 0 is this process."""
    for thread in _threads(pid):
        os.sched_setaffinity(thread, cores)


def take_idle_time_only(pid: int) -> None:
    """Let all threads of a process run only while nothing else wants their core.

    Whatever its niceness, a running thread of the usual class keeps a core for up to a slice of
    some milliseconds from one that wakes up.
    """
    for thread in _threads(pid):
        os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


def _threads(pid: int) -> list[int]:
    return [int(thread.name) for thread in Path(f"/proc/{pid or 'self'}/task").iterdir()]
