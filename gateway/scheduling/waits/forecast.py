"""Runs the queue forward: starts and ends as far as they can be foreseen.

Each pass draws the length of every answer from its predicted distribution, given what is generated
already, and arrivals like the recent ones. Then it is a simulation by events: what runs ends after
its remaining steps; what is next by turn of the tenants and by rank starts once it fits. A request
fits if the memory that the running ones hold on average, with its own, is within the room that
admission has been seen to use, whatever its rule. A pass costs some microseconds for each start.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from math import inf
from typing import Final, NamedTuple

import numpy as np
from msgspec import Struct

from gateway.quantiles import Floats
from gateway.scheduling.admission.length_distribution import LengthDistributions
from gateway.scheduling.requests import QueuedRequest, RunningSequence, service
from gateway.scheduling.waits.arrivals import Arrival
from gateway.scheduling.waits.snapshot import QueueSnapshot

LEVELS: Final = (np.arange(8) + 0.5) / 8  # of the length distributions that passes draw from
PASS_REQUESTS: Final = 1_000  # that all passes together take up, as far as passes are few
MAX_PASSES: Final = 8
EVENTS_PER_REQUEST: Final = 6  # after which a pass ends
MIN_EVENTS: Final = 500
ALL: Final = ""  # the tenant of all where tenants take no turns
YIELD_EVENTS: Final = 100  # between two pauses, in which other threads may run


class StartTrace(NamedTuple):
    """The starts of one pass and tenant: times, and the lowest rank started until each.

    A request that arrives now with a higher rank would have started instead.
    """

    at_s: list[float]
    lowest: list[float]  # negated: ascending


class Expectation(NamedTuple):
    """When a request starts and ends, in seconds from the snapshot; `place` 1 is next."""

    start_s: float
    finish_s: float
    place: int


class Forecast(Struct, frozen=True):
    """The outcome of all passes: by request, and the traces by which new arrivals are placed.

    `step_s` is the time of a step at present, `gap_s` the mean time between starts. The engine has
    `room_tokens` of KV memory for `most_running` sequences.
    """

    now_s: float
    expected: dict[str, Expectation]
    traces: list[dict[str, StartTrace]]
    ends_s: list[float]
    step_s: float
    gap_s: float
    room_tokens: float
    most_running: int

    def occupied_s(self, request: QueuedRequest) -> float:
        """How long a request with its median length takes up the whole engine, as it were."""
        share = mean_held(request.prompt_tokens, request.median) / max(self.room_tokens, 1.0)
        return request.median * self.step_s * max(share, 1 / self.most_running)

    def start_of_new(self, tenant: str, rank: float) -> float:
        """Seconds from the snapshot to the start of a request that arrives at it, the mean."""
        return sum(
            _start_in(traces, end_s, tenant, rank)
            for traces, end_s in zip(self.traces, self.ends_s, strict=True)
        ) / len(self.traces)


def passes_of(requests: int) -> int:
    """The number of passes with this number of queued and running requests."""
    return int(min(max(PASS_REQUESTS // (requests + 1), 1), MAX_PASSES))


def run_forward(
    snapshot: QueueSnapshot,
    arrivals: Sequence[Arrival],
    rate_s: float,
    room_tokens: float,
    rng: np.random.Generator,
    pause: Callable[[], None] = lambda: None,
) -> Forecast:
    """Forecast all starts. `room_tokens` is the room that admission uses; `pause` is called often.

    `arrivals` are recent ones, `rate_s` is their number a second.
    """
    waiting = [each.request for each in snapshot.queue.requests]
    requests = [*waiting, *(each.request for each in arrivals)]
    drawn = _Drawn.of(snapshot.running, requests, pause)
    count = passes_of(len(waiting) + len(snapshot.running))
    passes = [
        _Pass(snapshot, arrivals, rate_s, room_tokens, drawn, rng, pause) for _ in range(count)
    ]
    for each in passes:
        each.run()
    starts = np.array([each.starts for each in passes]).reshape(count, -1).mean(axis=0)
    ends = np.array([each.ends for each in passes]).reshape(count, -1).mean(axis=0)
    places = np.empty(len(waiting), np.int64)
    places[np.argsort(starts, kind="stable")] = np.arange(1, len(waiting) + 1)
    gaps = [each.clock / each.started for each in passes if each.started]
    return Forecast(
        snapshot.now_s,
        {
            request.id: Expectation(*each)
            for request, *each in zip(
                waiting, starts.tolist(), ends.tolist(), places.tolist(), strict=True
            )
        },
        [each.traces for each in passes],
        [each.clock for each in passes],
        passes[0].first_step_s,
        sum(gaps) / len(gaps) if gaps else 0.0,
        room_tokens,
        snapshot.most_running,
    )


def _start_in(traces: dict[str, StartTrace], end_s: float, tenant: str, rank: float) -> float:
    trace = traces.get(tenant) or traces.get(ALL)
    if trace is None:  # a tenant that returns has the next turn
        return min((each.at_s[0] for each in traces.values()), default=0.0)
    index = bisect_left(trace.lowest, -rank)
    return trace.at_s[index] if index < len(trace.at_s) else end_s


class _Drawn(NamedTuple):
    """Lengths at `LEVELS`: what is left of running sequences, whole answers of the others."""

    remaining: Floats  # (levels, running)
    lengths: Floats  # (levels, requests)

    @classmethod
    def of(
        cls,
        running: Sequence[RunningSequence],
        requests: Sequence[QueuedRequest],
        pause: Callable[[], None],
    ) -> "_Drawn":
        sequences = [*running, *(each.started() for each in requests)]
        pause()
        known = LengthDistributions.of(sequences)
        drawn = np.empty((len(LEVELS), len(sequences)))
        for number, level in enumerate(LEVELS):
            pause()
            drawn[number] = known.remaining_quantile(float(level))
        return cls(drawn[:, : len(running)], drawn[:, len(running) :])


def mean_held(prompt_tokens: float, length: float) -> float:
    """The KV tokens that a sequence holds on average while it runs."""
    return prompt_tokens + length / 2


class _Pass:
    """One run forward. Times count from the snapshot; steps are those of the engine."""

    def __init__(
        self,
        snapshot: QueueSnapshot,
        arrivals: Sequence[Arrival],
        rate_s: float,
        room_tokens: float,
        drawn: _Drawn,
        rng: np.random.Generator,
        pause: Callable[[], None],
    ) -> None:
        queue = snapshot.queue
        self._pause = pause
        self._step = snapshot.step
        self._room, self._most = room_tokens, snapshot.most_running
        self._rng, self._arrivals, self._rate_s = rng, arrivals, rate_s
        tenants = queue.tenants or {}
        self._by_tenant = queue.tenants is not None
        self._gains = {name: order.gain_per_s for name, order in tenants.items()}
        self._counters = {name: order.counter for name, order in tenants.items()}
        if not self._by_tenant:
            self._gains, self._counters = {ALL: 1.0}, {ALL: 0.0}
        self.clock = self._at_step = 0.0
        remaining, lengths = _draw(drawn.remaining, rng), _draw(drawn.lengths, rng)
        held = [
            mean_held(each.prompt_tokens, each.generated + left)
            for each, left in zip(snapshot.running, remaining, strict=True)
        ]
        self._running = list(zip(remaining, held, strict=True))
        heapify(self._running)
        self._used = sum(held)
        self._requests = [each.request for each in queue.requests]
        self._lengths = lengths
        self._queues: dict[str, list[tuple[float, int]]] = {}
        for index, (request, rank) in enumerate(queue.requests):
            self._queues.setdefault(self._whose(request), []).append((-rank, index))
        for each in self._queues.values():
            heapify(each)
        self._left = len(self._requests)
        self.starts = [inf] * self._left
        self.ends = [inf] * self._left
        self.started = 0
        self.traces: dict[str, StartTrace] = {}
        self.first_step_s = self._step_s()
        self._coming_s = 0.0  # of the next arrival; the first is now, in place of a new request
        self._coming = int(rng.integers(len(arrivals))) if arrivals else -1

    def run(self) -> None:
        """Run until all that waits has started, and the first arrival."""
        most = EVENTS_PER_REQUEST * len(self._requests) + MIN_EVENTS
        for event in range(most):
            if event % YIELD_EVENTS == 0:
                self._pause()
            while self._coming >= 0 and self._coming_s <= self.clock:
                self._arrive()
            tenant = self._next_tenant()
            if tenant is None or not self._start(tenant):
                if not self._advance(idle=tenant is None):
                    break
            elif not self._left and self.started:
                break
        self._close()

    def _whose(self, request: QueuedRequest) -> str:
        return request.tenant if self._by_tenant else ALL

    def _step_s(self) -> float:
        step, running = self._step, len(self._running)
        return step.step_s + step.sequence_s * running + step.kv_token_s * self._used

    def _arrive(self) -> None:
        """The next arrival: like a recent one."""
        number = self._coming
        arrival = self._arrivals[number]
        tenant = self._whose(arrival.request)
        gain = self._gains.get(tenant)
        if gain is None:
            gain = self._gains[tenant] = max(self._gains.values(), default=0.0)
        if not self._queues.get(tenant):
            floor = min((self._counters[name] for name, q in self._queues.items() if q), default=0)
            self._counters[tenant] = max(self._counters.get(tenant, 0.0), floor)
        rank = arrival.rank - gain * arrival.request.urgency * self._coming_s
        place = len(self._requests) + number
        heappush(self._queues.setdefault(tenant, []), (-rank, place))
        self._coming_s += float(self._rng.exponential(1 / self._rate_s)) if self._rate_s else inf
        self._coming = int(self._rng.integers(len(self._arrivals)))

    def _next_tenant(self) -> str | None:
        queues = self._queues
        if len(queues) == 1:
            name = next(iter(queues))
            return name if queues[name] else None
        waiting = [name for name, queue in queues.items() if queue]
        return min(waiting, key=self._counters.__getitem__) if waiting else None

    def _start(self, tenant: str) -> bool:
        """Start the tenant's next request if it fits."""
        queue = self._queues[tenant]
        rank, index = queue[0]
        own = index < len(self._requests)
        count = len(self._requests)
        request = self._requests[index] if own else self._arrivals[index - count].request
        length = self._lengths[index]
        held = mean_held(request.prompt_tokens, length)
        running = self._running
        if running and (self._used + held > self._room or len(running) >= self._most):
            return False
        heappop(queue)
        trace = self.traces.get(tenant)
        if trace is None:
            trace = self.traces[tenant] = StartTrace([], [])
        if not trace.lowest or rank > trace.lowest[-1]:  # negated: a lower rank
            trace.at_s.append(self.clock)
            trace.lowest.append(rank)
        if own:
            self.starts[index] = self.clock
            self._left -= 1
        self.started += 1
        self.clock += self._step.prefill_s(request.prompt_tokens)
        heappush(running, (self._at_step + length, held))
        self._used += held
        if own:
            self.ends[index] = self.clock + length * self._step_s()
        self._counters[tenant] = self._counters.get(tenant, 0.0) + (
            service(request.prompt_tokens, length) * request.charge_weight
        )
        return True

    def _advance(self, *, idle: bool) -> bool:
        """Go on to the next end, or to the next arrival if nothing waits; False if none comes."""
        running = self._running
        step_s = self._step_s()
        end_s = self.clock + (running[0][0] - self._at_step) * step_s if running else inf
        if idle and self._coming >= 0 and self._coming_s < end_s:
            if self._coming_s == inf:
                return False
            self._at_step += (self._coming_s - self.clock) / step_s
            self.clock = self._coming_s
            return True
        if not running:
            return False
        end, held = heappop(running)
        self._at_step, self.clock = end, end_s
        self._used -= held
        return True

    def _close(self) -> None:
        """What has not started by the end goes on at the same pace."""
        gap_s = self.clock / max(self.started, 1)
        late = sorted(
            (rank, index)
            for queue in self._queues.values()
            for rank, index in queue
            if index < len(self._requests)
        )
        for number, (_, index) in enumerate(late, 1):
            self.starts[index] = self.clock + number * gap_s
            self.ends[index] = self.starts[index] + self._lengths[index] * self._step_s()


def _draw(levels: Floats, rng: np.random.Generator) -> list[float]:
    """One of the levels of each column, at random."""
    count = levels.shape[1]
    drawn: list[float] = levels[rng.integers(len(levels), size=count), np.arange(count)].tolist()
    return drawn


def give_way() -> None:
    """A pause that lets another thread run: the interpreter lock is handed over."""
    time.sleep(1e-5)
