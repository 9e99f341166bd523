"""Applies an engine's events to the requests they concern."""

import asyncio
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import Final

import structlog

from engine.protocol import EngineInfo, Finish, Refused, Starting, Step
from gateway.errors import EngineLost, GenerationFailed
from gateway.generation.dispatcher import Dispatcher
from gateway.generation.engines.group import EngineGroup
from gateway.generation.engines.session import EngineSession
from gateway.generation.holds.holds import Holds
from gateway.generation.insight.estimates import expected_remainders
from gateway.generation.insight.host_cost import HostCostLearner
from gateway.generation.insight.step_cost import StepCostLearner
from gateway.generation.metrics import GatewayMetrics
from gateway.generation.pins import PrefixPins
from gateway.generation.preemption import PreemptionOrder
from gateway.generation.queue.load import QueueLoad
from gateway.generation.request_state import RequestState
from gateway.generation.request_table import RequestTable
from gateway.generation.settlement import Settlement
from gateway.scheduling.admission.prices import EngineCost
from gateway.scheduling.control_loop import ControlLoop

STEPS_BETWEEN_REVISIONS: Final = 32
RECHECK_S: Final = 1.0  # of an engine that was given up, for which requests may wait again
MAX_ENDS_PER_TURN: Final = 8  # of the event loop; to record and learn from one takes 0.3 ms

log = structlog.get_logger()


class EngineEvents:
    """Listens to one engine: adds tokens to requests, ends them, and triggers decisions.

    `session` is the one with this engine, among those of `engines`. All queued and running requests
    fail with `EngineLost` once every session gives its engine up.
    """

    def __init__(
        self,
        loop: ControlLoop,
        table: RequestTable,
        session: EngineSession,
        engines: EngineGroup,
        settlement: Settlement,
        preemption: PreemptionOrder,
        pins: PrefixPins,
        holds: Holds,
        load: QueueLoad,
        dispatcher: Dispatcher,
        metrics: GatewayMetrics,
        step_cost: StepCostLearner,
        host_cost: HostCostLearner,
        clock: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._table = table
        self._session = session
        self._engines = engines
        self._number = session.number
        self._settlement = settlement
        self._preemption = preemption
        self._pins = pins
        self._holds = holds
        self._load = load
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._step_cost = step_cost
        self._host_cost = host_cost
        self._clock = clock
        self._steps = 0
        self._unsettled: deque[Finish] = deque()

    def engine_ready(self, info: EngineInfo) -> None:
        """A new engine is connected: it gets work, first what lost engines were running.

        It gets none if it serves another model than the others.
        """
        if not self._engines.fits(self._number, info):
            return
        returned = self._session.info is not None
        self._session.opened(info)
        self._host_cost.opened(info)
        self._dispatcher.resize(info.kv, self._number)
        self._loop.restore(self._number, gradually=returned)
        self._pins.reopen()
        self._dispatcher.go_on()

    def engine_lost(self) -> None:
        """The engine is lost: dispatch nothing to it until the next one connects."""
        self._settle_some(len(self._unsettled))  # these need no other engine
        if self._session.refused:  # it had nothing
            self._session.refused = ""
            return
        lost_at_s = self._clock()
        self._session.closed(lost_at_s)
        self._dispatcher.lose(self._number)
        self._await_engine(lost_at_s)

    def engine_starting(self, starting: Starting) -> None:
        """An engine that loads its model gave a sign of life."""
        self._session.starting(starting, self._clock())

    def engine_refused(self, refused: Many[Refused]) -> None:
        """End the sequences that the engine refuses to run."""
        for item in refused:
            state = self._table.running.pop(item.id, None)
            if state:
                error = GenerationFailed(f"the engine refused it: {item.reason}")
                self._settlement.end(state, "error", error)
        self._dispatcher.decide_soon()

    def engine_stepped(self, step: Step) -> None:
        """Add the step's tokens to requests, end finished ones, and decide if that is due."""
        if self._session.refused:  # it has nothing of ours
            return
        before = self._session.served.kv.pages
        if step.kv.pages != before:
            log.warning("kv_resized", engine=self._number, pages=step.kv.pages, before=before)
            self._dispatcher.resize(step.kv, self._number)
        if step.max_running not in {0, self._session.served.max_running}:
            self._dispatcher.limit(step.max_running, self._number)
        self._session.stepped(step)
        self._loop.advance(step.steps, self._number)
        self._loop.limit_batch(step.background_rows or None, engine=self._number)
        if step.preempted or step.returned:
            self._count_preemptions([*step.preempted, *step.returned])
        if step.unpinned:
            self._pins.lost(step.unpinned)
        stopped = self._grow(step)
        if stopped:
            self._stop(stopped)
        self._ended(step.finished)
        if step.returned:
            self._dispatcher.split(step.returned)
        self._metrics.stepped(step, self._number)
        self._step_cost.observe(step)
        self._host_cost.observe(step, self._step_cost)
        self._load.stepped(step.computed, step.took_s / self._engines.present)
        self._steps += 1
        if self._steps % STEPS_BETWEEN_REVISIONS == 0:
            self._price()
            self._revise()
        if self._loop.due and self._table.waiting:
            self._dispatcher.decide_soon()

    def _price(self) -> None:
        """Let admission weigh by the cost of steps as learned so far."""
        learned = self._step_cost.cost
        if learned is not None:
            served = self._session.served
            step_tokens = served.step_tokens or served.context_tokens
            step = self._session.step
            swap_token_s = step.swap_token_s if step is not None else 0.0
            cost = EngineCost(learned.coefficients, step_tokens, swap_token_s or None)
            self._loop.price(cost, engine=self._number)
            self._host_cost.price()

    def _count_preemptions(self, preempted: Many[str]) -> None:
        running = self._table.running
        states = [running[sequence_id] for sequence_id in preempted if sequence_id in running]
        now_s = self._clock()
        for state in states:
            state.suspend(now_s)

    def _grow(self, step: Step) -> list[RequestState]:
        """Add new tokens to requests; return those that end with them.

        Their stop string is complete, or a budget is spent.
        """
        now_s = self._clock()
        for sequence_id, reused in step.reused.items():
            reader = self._table.running.get(sequence_id)
            if reader and reader.cached_tokens is None:  # it was read when it first started
                reader.cached_tokens = reused
        stopped = []
        for sequence_id, tokens in step.tokens.items():
            state = self._table.running.get(sequence_id)
            if state is None:
                continue
            allowed = tokens[: self._holds.cover(state, len(tokens))]
            stops = state.grow(allowed, now_s, step.logprobs.get(sequence_id, ()))
            if stops or len(allowed) < len(tokens):
                stopped.append(state)
                state.ended_by = None if stops else state.ended_by
        return stopped

    def _stop(self, stopped: Many[RequestState]) -> None:
        """End answers at their stop string or at the end of their budget.

        Tokens that the engine still generates are dropped.
        """
        for state in stopped:
            del self._table.running[state.sequence_id]
            self._settlement.end(state, "length" if state.ended_by else "stop")
        self._session.cancel([state.sequence_id for state in stopped])

    def _ended(self, finished: Many[Finish]) -> None:
        """Settle the ends of a step: the first of them now, others in later turns of the loop."""
        begun = bool(self._unsettled)
        self._unsettled.extend(finished)
        if self._unsettled and not begun:
            self._settle_some()

    def _settle_some(self, most: int = MAX_ENDS_PER_TURN) -> None:
        """Settle the oldest of the ended sequences."""
        if not self._unsettled:
            return
        count = min(most, len(self._unsettled))
        try:
            self._finish([self._unsettled.popleft() for _ in range(count)])
        finally:
            if self._unsettled:
                asyncio.get_running_loop().call_soon(self._settle_some)
        if self._loop.due and self._table.waiting:
            self._dispatcher.decide_soon()

    def _finish(self, finished: Many[Finish]) -> None:
        cut_off = []
        for finish in finished:
            state = self._table.running.pop(finish.id, None)
            if state is None:
                continue
            lost = finish.reason == "cancelled"  # not by us: our stream was away for too long
            shrunk = finish.reason == "error" and not self._fits(state)
            if lost or shrunk:
                cut_off.append(state)
            elif finish.reason == "error":
                reason = finish.message or "no reason given"
                error = GenerationFailed(f"the engine failed: {reason}")
                self._settlement.end(state, "error", error)
            else:
                if finish.stop_id is not None:
                    state.stopped_at(finish.stop_id)
                self._settlement.end(state, finish.reason)
        if cut_off:
            self._dispatcher.resume(cut_off)

    def _fits(self, state: RequestState) -> bool:
        """Whether prompt and longest answer fit the engine's context."""
        return len(state.prompt) + state.max_tokens <= self._session.context_tokens(state.memory)

    def _revise(self) -> None:
        """Send each sequence's expected remaining tokens, and who is to be preempted first."""
        running = self._table.on(self._number)
        if not running:
            return
        changed = self._preemption.refresh()
        self._session.revise(expected_remainders(running), changed.pop(self._number, {}))
        self._preemption.send(changed)

    def _await_engine(self, lost_at_s: float, least_s: float = 0.0) -> None:
        """Look again when the lost engines would be given up."""
        wait_s = max(self._engines.patience_s(self._clock()), least_s)
        asyncio.get_running_loop().call_later(wait_s, self._fail_if_given_up, lost_at_s)

    def _fail_if_given_up(self, lost_at_s: float) -> None:
        """Fail all requests if all engines are given up, now or while this one stays lost."""
        table = self._table
        if self._session.lost_at_s != lost_at_s:
            return
        if self._engines.given_up(self._clock()) and (table.waiting or table.running):
            log.error("engine_given_up", waiting=len(table.waiting), running=len(table.running))
            error = EngineLost("the engine does not answer; try again in a moment")
            self._dispatcher.cancel_all(error)
        self._await_engine(lost_at_s, RECHECK_S)
