"""A policy with many requests waiting: as one ends another comes, and what fits goes."""

import heapq
from collections.abc import Callable
from math import exp, log
from random import Random
from statistics import mean
from time import thread_time
from typing import Final, NamedTuple, TypeVar

from gateway.scheduling.control_loop import ControlLoop
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.policy import Options, PolicyName, build_policy
from gateway.scheduling.requests import Quantiles, QueuedRequest, RunningSequence

SEED: Final = 23
PAGE_TOKENS: Final = 16
STEP_S: Final = 0.02
TENANTS: Final = 8
PROMPT: Final = (180, 0.7)  # tokens: median, standard deviation of the logarithm
ANSWER: Final = (140, 0.8)
MISSED: Final = 0.4  # standard deviation of the logarithm of a prediction's error
MOST: Final = 2_048
LEAST_PAGES: Final = 2 * MOST // PAGE_TOKENS  # any request fits at its longest
NORMAL: Final = (-1.2816, -0.6745, 0.0, 0.6745, 1.2816, 1.6449)  # at τ = .1 .25 .5 .75 .9 .95
ROUNDS: Final = 8  # of settling, until as many run as wanted

Result = TypeVar("Result")


class Turn(NamedTuple):
    """What one turn took, in seconds of this thread's CPU time, and how many ran after it.

    `calls_s` are the calls of dispatch, the last of which finds that nothing more fits; each with
    the refresh of admission before it, if one was due. `ended_s` is what the loop took to learn of
    the request that ended and of its batch.
    """

    ended_s: float
    arrive_s: float
    calls_s: list[float]
    refresh_s: float
    running: int

    @property
    def decisions_s(self) -> list[float]:
        """What each decision took: a call of dispatch, the first with the arrival before it."""
        return [self.arrive_s + self.calls_s[0], *self.calls_s[1:]]


class _Sequence(NamedTuple):
    """A request that runs: since which step, and how long its answer will be."""

    request: QueuedRequest
    began: int
    length: int


class Backlog:
    """Keeps `waiting` requests waiting, and a pool in which about `running` run."""

    def __init__(self, policy: PolicyName, waiting: int, running: int) -> None:
        self.loop = ControlLoop(build_policy(policy, Options()))
        self._waiting = waiting
        self._wanted = running
        self._random = Random(SEED)
        self._number = 0
        self._lengths: dict[str, int] = {}  # true ones, of what waits
        self._running: dict[str, _Sequence] = {}
        self._ends: list[tuple[int, str]] = []
        self._pages = running * round((PROMPT[0] + ANSWER[0]) * 1.4 / PAGE_TOKENS) + LEAST_PAGES
        self.loop.resize(self._pages, PAGE_TOKENS)
        apart_s = ANSWER[0] * 1.4 * STEP_S / running  # between two ends, about
        for place in range(waiting, 0, -1):
            self.loop.arrive(self._request(-place * apart_s))

    def settle(self) -> None:
        """Run until the pool lets about so many run as are wanted."""
        self._dispatch()
        for _ in range(ROUNDS):
            running = mean(turn.running for turn in self.turns(max(2 * self._wanted, 50)))
            self._pages = max(round(self._pages * self._wanted / running), LEAST_PAGES)
            self.loop.resize(self._pages, PAGE_TOKENS)

    def turns(self, count: int) -> list[Turn]:
        """So many turns: a request ends, another comes, and what fits is dispatched."""
        return [self._turn() for _ in range(count)]

    def check(self) -> None:
        """AssertionError where the policy contradicts itself or what runs here."""
        self.loop.policy.check()
        assert len(self._lengths) == self.loop.waiting
        assert len(self._running) == len(self._ends)

    def _turn(self) -> Turn:
        ended_s = self._end_next()
        request = self._request(self._now_s)
        arrive_s, _ = _timed(lambda: self.loop.arrive(request))
        calls_s, refresh_s = self._dispatch()
        self._level()
        return Turn(ended_s, arrive_s, calls_s, refresh_s, len(self._running))

    def _level(self) -> None:
        """Let as many wait as should."""
        while self.loop.waiting < self._waiting:
            self.loop.arrive(self._request(self._now_s))
        while self.loop.waiting > self._waiting:
            newest, _ = self._lengths.popitem()
            self.loop.withdraw(newest)

    @property
    def _now_s(self) -> float:
        return self.loop.steps * STEP_S

    def _end_next(self) -> float:
        """Let steps pass until the next request ends; seconds that the loop took to learn of it."""
        end, request_id = heapq.heappop(self._ends)
        self.loop.advance(end - self.loop.steps)
        sequence = self._running.pop(request_id)
        took_s, _ = _timed(lambda: self._ended(sequence))
        return took_s

    def _ended(self, sequence: _Sequence) -> None:
        self.loop.ended(sequence.request, sequence.length, self._now_s)
        self.loop.settle()

    def _dispatch(self) -> tuple[list[float], float]:
        """Dispatch until nothing fits; what each call took, and the refreshes among that."""
        calls_s, refreshes_s = [], 0.0
        while True:
            refresh_s = 0.0
            if self.loop.policy.admission.stale:
                refresh_s, _ = _timed(lambda: self.loop.refresh(self._held()))
            call_s, dispatch = _timed(lambda: self.loop.dispatch(self._now_s, self._held))
            calls_s.append(refresh_s + call_s)
            refreshes_s += refresh_s
            if dispatch is None:
                return calls_s, refreshes_s
            self._begin(dispatch)

    def _begin(self, dispatch: Dispatch) -> None:
        for request in dispatch.requests:
            length = self._lengths.pop(request.id)
            self._running[request.id] = _Sequence(request, self.loop.steps, length)
            heapq.heappush(self._ends, (self.loop.steps + length, request.id))

    def _held(self) -> list[RunningSequence]:
        return [
            RunningSequence(
                request.id,
                request.prompt_tokens,
                self.loop.steps - began,
                request.quantiles,
                request.max_tokens,
            )
            for request, began, _ in self._running.values()
        ]

    def _request(self, arrived_s: float) -> QueuedRequest:
        """The next request, its length predicted with an error."""
        self._number += 1
        length = _drawn(self._random, *ANSWER)
        median = length * exp(self._random.gauss(0.0, MISSED))
        request = QueuedRequest(
            id=str(self._number),
            tenant=f"tenant {self._random.randrange(TENANTS)}",
            prompt_tokens=_drawn(self._random, *PROMPT),
            quantiles=_quantiles(median),
            max_tokens=MOST,
            arrived_s=arrived_s,
        )
        self._lengths[request.id] = length
        return request


def _drawn(rng: Random, median: float, spread: float) -> int:
    return min(max(round(exp(rng.gauss(log(median), spread))), 1), MOST)


def _quantiles(median: float) -> Quantiles:
    a, b, c, d, e, f = (min(max(median * exp(MISSED * z), 1.0), float(MOST)) for z in NORMAL)
    return a, b, c, d, e, f


def _timed(call: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds of CPU time that a call took, and what it gave: it waits for nobody."""
    began_s = thread_time()
    result = call()
    return thread_time() - began_s, result
