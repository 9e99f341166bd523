"""A constant load on one policy: when a request ends, another arrives, and what fits starts."""

import heapq
from collections.abc import Callable
from math import exp, log
from random import Random
from statistics import mean
from time import thread_time
from typing import Final, NamedTuple, TypeVar

from gateway.replay.cost.profiles import DEFAULT_PROFILE, profile
from gateway.scheduling.control_loop import ControlLoop
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.policy import Options, PolicyName, build_policy
from gateway.scheduling.requests import Quantiles, QueuedRequest, RunningSequence

SEED: Final = 23
PAGE_TOKENS: Final = 16
STEP_S: Final = 0.02
TENANTS: Final = 8
PROMPT_TOKENS: Final = (180, 0.7)  # tokens: median, standard deviation of the logarithm
ANSWER_TOKENS: Final = (140, 0.8)  # the same
PREDICTION_ERROR: Final = 0.4  # standard deviation of the logarithm
MAX_TOKENS: Final = 2_048
MIN_PAGES: Final = 2 * MAX_TOKENS // PAGE_TOKENS  # any request fits at its maximum length
NORMAL_Z: Final = (
    -1.2816,
    -0.6745,
    0.0,
    0.6745,
    1.2816,
    1.6449,
)  # at LEVELS
SETTLING_ROUNDS: Final = 8  # adjustments of the pool to the target number of running requests

Result = TypeVar("Result")


class TimedTurn(NamedTuple):
    """The durations of one turn, in seconds of this thread's CPU time, and how many ran after it.

    `calls_s` are the calls of dispatch, each with the refresh of admission before it if one was
    due; the last call finds that nothing more fits. `ended_s` is the handling of the request that
    ended.
    """

    ended_s: float
    arrive_s: float
    calls_s: list[float]
    refresh_s: float
    running: int

    @property
    def decisions_s(self) -> list[float]:
        """The duration of each decision: a call of dispatch, the first including the arrival."""
        return [self.arrive_s + self.calls_s[0], *self.calls_s[1:]]


class _Sequence(NamedTuple):
    """A running request: the step at which it started and its true length."""

    request: QueuedRequest
    began: int
    length: int


class DecisionLoad:
    """Keeps `waiting` requests queued, and a pool in which about `running` requests run."""

    def __init__(self, policy: PolicyName, waiting: int, running: int) -> None:
        self.loop = ControlLoop(build_policy(policy, Options()))
        self._waiting = waiting
        self._target_running = running
        self._random = Random(SEED)
        self._created = 0
        self._lengths: dict[str, int] = {}  # true lengths of the queued requests
        self._running: dict[str, _Sequence] = {}
        self._ends: list[tuple[int, str]] = []
        self._pages = (
            running * round((PROMPT_TOKENS[0] + ANSWER_TOKENS[0]) * 1.4 / PAGE_TOKENS) + MIN_PAGES
        )
        self.loop.resize(self._pages, PAGE_TOKENS)
        self.loop.price(profile(DEFAULT_PROFILE).admission_cost)
        interval_s = ANSWER_TOKENS[0] * 1.4 * STEP_S / running  # between two ends, approximately
        for index in range(waiting, 0, -1):
            self.loop.arrive(self._request(-index * interval_s))

    def settle(self) -> None:
        """Adjust the pool until about the target number of requests run."""
        self._dispatch()
        for _ in range(SETTLING_ROUNDS):
            running = mean(turn.running for turn in self.turns(max(2 * self._target_running, 50)))
            self._pages = max(round(self._pages * self._target_running / running), MIN_PAGES)
            self.loop.resize(self._pages, PAGE_TOKENS)

    def turns(self, count: int) -> list[TimedTurn]:
        """Run `count` turns: a request ends, another arrives, and what fits is dispatched."""
        return [self._turn() for _ in range(count)]

    def check(self) -> None:
        """AssertionError if the policy is inconsistent or disagrees with this load."""
        self.loop.policy.check()
        assert len(self._lengths) == self.loop.waiting
        assert len(self._running) == len(self._ends)

    def _turn(self) -> TimedTurn:
        ended_s = self._end_next()
        request = self._request(self._now_s)
        arrive_s, _ = _timed(lambda: self.loop.arrive(request))
        calls_s, refresh_s = self._dispatch()
        self._refill()
        return TimedTurn(ended_s, arrive_s, calls_s, refresh_s, len(self._running))

    def _refill(self) -> None:
        """Restore the number of queued requests."""
        while self.loop.waiting < self._waiting:
            self.loop.arrive(self._request(self._now_s))
        while self.loop.waiting > self._waiting:
            newest, _ = self._lengths.popitem()
            self.loop.withdraw(newest)

    @property
    def _now_s(self) -> float:
        return self.loop.steps * STEP_S

    def _end_next(self) -> float:
        """Advance to the next end of a request; returns the seconds of handling it."""
        end, request_id = heapq.heappop(self._ends)
        self.loop.advance(end - self.loop.steps)
        sequence = self._running.pop(request_id)
        took_s, _ = _timed(lambda: self._ended(sequence))
        return took_s

    def _ended(self, sequence: _Sequence) -> None:
        self.loop.ended(sequence.request, sequence.length, self._now_s)

    def _dispatch(self) -> tuple[list[float], float]:
        """Dispatch until nothing fits; the seconds of each call, and of all refreshes in them."""
        calls_s, refreshes_s = [], 0.0
        while True:
            refresh_s = 0.0
            if self.loop.policy.admission.stale:
                refresh_s, _ = _timed(lambda: self.loop.refresh(self._sequences()))
            call_s, dispatch = _timed(lambda: self.loop.dispatch(self._now_s, self._sequences))
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

    def _sequences(self) -> list[RunningSequence]:
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
        """A new request, its length predicted with an error."""
        self._created += 1
        length = _drawn(self._random, *ANSWER_TOKENS)
        median = length * exp(self._random.gauss(0.0, PREDICTION_ERROR))
        request = QueuedRequest(
            id=str(self._created),
            tenant=f"tenant {self._random.randrange(TENANTS)}",
            prompt_tokens=_drawn(self._random, *PROMPT_TOKENS),
            quantiles=_quantiles(median),
            max_tokens=MAX_TOKENS,
            arrived_s=arrived_s,
        )
        self._lengths[request.id] = length
        return request


def _drawn(rng: Random, median: float, spread: float) -> int:
    return min(max(round(exp(rng.gauss(log(median), spread))), 1), MAX_TOKENS)


def _quantiles(median: float) -> Quantiles:
    a, b, c, d, e, f = (
        min(max(median * exp(PREDICTION_ERROR * z), 1.0), float(MAX_TOKENS)) for z in NORMAL_Z
    )
    return a, b, c, d, e, f


def _timed(call: Callable[[], Result]) -> tuple[float, Result]:
    """The CPU time of a call in seconds, and its result; CPU time excludes waiting."""
    began_s = thread_time()
    result = call()
    return thread_time() - began_s, result
