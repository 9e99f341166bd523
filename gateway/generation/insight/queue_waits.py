"""Keeps the forecasts of the queues current: about once a second, in a thread."""

import asyncio
import time
from collections.abc import Callable
from collections.abc import Sequence as Many
from statistics import fmean
from typing import Final

import structlog
from msgspec.structs import astuple, replace

from gateway.generation.engines.group import EngineGroup
from gateway.generation.insight.step_cost import StepCostLearner
from gateway.generation.request_state import RequestState
from gateway.generation.request_table import RequestTable
from gateway.scheduling.admission.prices import LinearStepTime
from gateway.scheduling.control_loop import ControlLoop
from gateway.scheduling.host_lane import HostLane
from gateway.scheduling.requests import QueuedRequest
from gateway.scheduling.waits.estimator import (
    INTERVAL_S,
    FinishedRun,
    ForecastRun,
    Outlook,
    WaitEstimator,
    finish_band,
)
from gateway.scheduling.waits.forecast import give_way
from gateway.scheduling.waits.snapshot import (
    QueueSnapshot,
    RankedQueue,
    RankedRequest,
    RankingPolicy,
    ranked_by_arrival,
)

MAX_CORE_SHARE: Final = 0.02  # of a core; where a forecast takes longer, the next comes later
UNKNOWN_STEP_S: Final = 0.01  # until an engine has completed one
NOT_LIMITED: Final = 1 << 20  # running sequences

log = structlog.get_logger()


class QueueWaits:
    """Feeds the wait estimators, and reads them for requests. Each call takes some microseconds.

    `estimator` is for what the policy orders, `host` for what waits for host memory in its `lane`.

    `interval_s` is the time between two forecasts at present, `INTERVAL_S` or more: so long that
    forecasts take at most `MAX_CORE_SHARE` of a core.
    """

    def __init__(
        self,
        loop: ControlLoop,
        table: RequestTable,
        lane: HostLane,
        engines: EngineGroup,
        step_costs: Many[StepCostLearner],
        clock: Callable[[], float],
    ) -> None:
        self.estimator = WaitEstimator()
        self.host = WaitEstimator()
        self.interval_s = INTERVAL_S
        self._loop = loop
        self._table = table
        self._lane = lane
        self._engines = engines
        self._step_costs = step_costs
        self._clock = clock
        self._decisions = 0
        self._arrived_in: dict[str, int] = {}  # the decision before each arrival
        self._task: asyncio.Task[None] | None = None

    def decided(self) -> None:
        """A decision begins."""
        self._decisions += 1

    def arrived(self, state: RequestState) -> None:
        """A request was queued: note its expected start and finish."""
        request = state.queued_request
        assert request is not None
        now_s = self._clock()
        self._arrived_in[request.id] = self._decisions
        on_host = state.on_host
        rank = self._lane.rank(request, now_s) if on_host else self._rank_of(request.id, now_s)
        band = self._of(state).arrive(request, rank, now_s)
        before_s = now_s - state.arrived_s
        state.expect(band.p50 + before_s, (band.p10 + before_s, band.p90 + before_s))
        self._keep_current()

    def started(self, state: RequestState, now_s: float) -> None:
        """A request starts."""
        name = state.id.hex
        waited = self._decisions > self._arrived_in.pop(name, 0) + 1
        self._of(state).started(name, now_s, waited=waited)
        if not waited:  # it was expected, and seen, to start at once
            state.expect(now_s - state.arrived_s)

    def left(self, state: RequestState) -> None:
        """A request left the queue without a start."""
        self._arrived_in.pop(state.id.hex, None)
        self._of(state).left(state.id.hex)

    def revised(self, state: RequestState) -> None:
        """A queued request has another prediction."""
        if state.queued_request is not None:
            self._of(state).revise(state.queued_request)

    def outlook(self, state: RequestState, now_s: float) -> Outlook | None:
        """When a waiting request starts and ends; None if nothing is known of it."""
        return self._of(state).outlook(state.id.hex, now_s)

    def runs_s(self, state: RequestState) -> float:
        """Seconds that a waiting request will run for, at the pace of the newest forecast."""
        return self._of(state).step_s * state.prediction.median

    def _of(self, state: RequestState) -> WaitEstimator:
        """The estimator of the queue that a request waits in, or has waited in."""
        return self.host if state.host_reason == "does_not_fit" else self.estimator

    def of_new(self, request: QueuedRequest) -> Outlook:
        """When a request would start and end that were queued now."""
        policy, now_s = self._loop.policy, self._clock()
        rank = policy.rank_of_new(request) if isinstance(policy, RankingPolicy) else 0.0
        start = self.estimator.band_of_new(request.tenant, rank, now_s)
        runs_s = self.estimator.step_s * request.median
        return Outlook(len(self._table.waiting) + 1, start, finish_band(start, runs_s, request))

    def _rank_of(self, request_id: str, now_s: float) -> float:
        policy = self._loop.policy
        rank = policy.rank_of(request_id, now_s) if isinstance(policy, RankingPolicy) else None
        return 0.0 if rank is None else rank

    def _keep_current(self) -> None:
        """Forecast at intervals from now on, as long as anything waits or runs."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._forecast())
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("wait_forecast_failed", exc_info=error)

    async def _forecast(self) -> None:
        while self._table.waiting or self._table.running:
            if self._engines.accepting and self._engines.info is not None:
                runs = {self.estimator: self._begin()}
                if len(self._lane):
                    runs[self.host] = self._begin_host()
                finished, took_s = await asyncio.to_thread(_timed, [*runs.values()])
                for estimator, found in zip(runs, finished, strict=True):
                    estimator.adopt(found)
                self.interval_s = max(INTERVAL_S, took_s / MAX_CORE_SHARE)
            await asyncio.sleep(self.interval_s)

    def _begin(self) -> ForecastRun:
        """What a forecast starts from; it is read in the thread, but for what may change."""
        now_s, policy = self._clock(), self._loop.policy
        states = [each for each in self._table.running.values() if each.in_order]
        queue: Callable[[], RankedQueue]
        if isinstance(policy, RankingPolicy):
            queue = policy.ranked(now_s)
        else:
            waiting = [s.queued_request for s in self._table.waiting.values() if s.in_order]
            requests = [each for each in waiting if each is not None]
            queue = lambda: ranked_by_arrival(requests, now_s)  # noqa: E731
        served, step = self._engines.served, self._shared_step()

        def snapshot() -> QueueSnapshot:
            return QueueSnapshot(
                now_s,
                queue(),
                [state.to_running() for state in states],
                step,
                float(served.kv.pages * served.kv.page_tokens),
                served.max_running or NOT_LIMITED,
            )

        return self.estimator.begin(now_s, snapshot)

    def _begin_host(self) -> ForecastRun:
        """What a forecast of the queue for host memory starts from."""
        now_s, lane = self._clock(), self._lane
        states = [each for each in self._table.running.values() if each.on_host]
        ranked = [RankedRequest(each, lane.rank(each, now_s)) for each in lane.queued()]
        step, tokens = self._host_step(), float(lane.tokens)

        def snapshot() -> QueueSnapshot:
            running = [state.to_running() for state in states]
            return QueueSnapshot(
                now_s, RankedQueue(ranked, None), running, step, tokens, NOT_LIMITED
            )

        return self.host.begin(now_s, snapshot)

    def _learned_step(self) -> LinearStepTime | None:
        """The learned cost of steps without sequences in host memory, at their recent pace."""
        learned = [time for cost in self._step_costs if (time := cost.recent) is not None]
        return shared_step_time(learned, self._engines.present) if learned else None

    def _newest_step(self) -> LinearStepTime:
        return LinearStepTime(self._engines.step_s or UNKNOWN_STEP_S, 0.0, 0.0, 0.0)

    def _shared_step(self) -> LinearStepTime:
        """The cost of steps with what is in host memory now; unknown, the newest step's time."""
        learned = self._learned_step()
        if learned is None:
            return self._newest_step()
        added_s = self._lane.added_s(self._device_s(learned))
        return replace(learned, step_s=learned.step_s + added_s)

    def _host_step(self) -> LinearStepTime:
        """The cost of steps to a sequence in host memory, next to what the device has now."""
        learned, costs = self._learned_step(), self._lane.costs
        if learned is None or costs is None:
            return self._newest_step()
        row = self._lane.mean_row
        step_s = self._device_s(learned) * (1 + costs.slowdown)
        return LinearStepTime(step_s, learned.prompt_token_s, row.row_s, row.token_s)

    def _device_s(self, learned: LinearStepTime) -> float:
        """The time of a step of all that is on the device."""
        running = [each for each in self._table.running.values() if not each.on_host]
        held = sum(len(each.prompt) + len(each.tokens) for each in running)
        return learned.seconds(0, len(running), held)


def shared_step_time(times: Many[LinearStepTime], engines: int) -> LinearStepTime:
    """The mean of these, for steps of `engines` that divide what runs evenly among them."""
    step_s, *amounts = (fmean(each) for each in zip(*map(astuple, times), strict=True))
    return LinearStepTime(step_s, *(each / max(engines, 1) for each in amounts))


def _timed(runs: Many[ForecastRun]) -> tuple[list[FinishedRun], float]:
    """Run in a thread; returns also the processor time that they took."""
    began_s = time.thread_time()
    finished = [run.run(give_way) for run in runs]
    return finished, time.thread_time() - began_s
