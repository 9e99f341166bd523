"""What the engine reports, given to the requests it concerns."""

import asyncio
from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import Final

import structlog

from engine.protocol import EngineInfo, Finish, Refused, Step
from gateway.errors import EngineLost, GenerationFailed
from gateway.generation.dispatcher import Dispatcher
from gateway.generation.engine_session import EngineSession
from gateway.generation.metrics import Metrics
from gateway.generation.request_state import RequestState
from gateway.generation.request_table import RequestTable
from gateway.generation.settlement import Settlement
from gateway.scheduling.admission.length_distribution import LengthDistributions
from gateway.scheduling.control_loop import ControlLoop

STEPS_BETWEEN_REVISIONS: Final = 32
OUTAGE_S: Final = 30.0  # an engine away for longer is not waited for

log = structlog.get_logger()


class EngineEvents:
    """Listens to one engine: gives requests their tokens, ends them, and asks for decisions.

    After `outage_s` without an engine everything that waits for it ends with `EngineLost`.
    """

    def __init__(
        self,
        loop: ControlLoop,
        table: RequestTable,
        session: EngineSession,
        settlement: Settlement,
        dispatcher: Dispatcher,
        metrics: Metrics,
        outage_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._table = table
        self._session = session
        self._settlement = settlement
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._outage_s = outage_s
        self._clock = clock
        self._steps = 0

    def engine_ready(self, info: EngineInfo) -> None:
        """A fresh engine: what was running goes on from what it had generated."""
        self._session.opened(info)
        self._dispatcher.resize(info.kv)
        self._dispatcher.reopen()

    def engine_lost(self) -> None:
        """Wait for the next engine; nothing is dispatched meanwhile."""
        lost_at_s = self._clock()
        self._session.closed(lost_at_s)
        self._loop.interrupt()
        asyncio.get_running_loop().call_later(self._outage_s, self._give_up, lost_at_s)

    def engine_refused(self, refused: Many[Refused]) -> None:
        """The engine will never run these."""
        for item in refused:
            live = self._table.running.pop(item.id, None)
            if live:
                error = GenerationFailed(f"the engine refused it: {item.reason}")
                self._settlement.end(live, "error", error)
        self._dispatcher.decide_soon()

    def engine_stepped(self, step: Step) -> None:
        """Give each request its tokens, end those that finished, and decide if that is due."""
        if step.kv.pages != self._session.served.kv.pages:
            before = self._session.served.kv.pages
            log.warning("kv_resized", pages=step.kv.pages, before=before)
            self._dispatcher.resize(step.kv)
        self._session.step = step
        self._loop.advance(1)
        self._count_preemptions(step.preempted)
        stopped = self._grow(step)
        self._stop(stopped)
        self._finish(step.finished)
        if stopped or step.finished:
            self._loop.settle()
        self._metrics.stepped(step)
        self._steps += 1
        if self._steps % STEPS_BETWEEN_REVISIONS == 0 and self._table.running:
            self._revise()
        if self._loop.due and self._table.waiting:
            self._dispatcher.decide_soon()

    def _count_preemptions(self, preempted: Many[str]) -> None:
        running = self._table.running
        lives = [running[sequence_id] for sequence_id in preempted if sequence_id in running]
        for live in lives:
            live.preemptions += 1
        self._loop.preempted(len(lives))

    def _grow(self, step: Step) -> list[RequestState]:
        """Give requests their new tokens; those whose stop string is complete."""
        now_s = self._clock()
        stopped = []
        for sequence_id, tokens in step.tokens.items():
            live = self._table.running.get(sequence_id)
            if live and live.grow(tokens, now_s, step.logprobs.get(sequence_id, ())):
                stopped.append(live)
        return stopped

    def _stop(self, stopped: Many[RequestState]) -> None:
        """End answers at their stop string; what the engine still generates is dropped."""
        for live in stopped:
            del self._table.running[live.sequence_id]
            self._settlement.end(live, "stop")
        if stopped:
            self._session.cancel([live.sequence_id for live in stopped])

    def _finish(self, finished: Many[Finish]) -> None:
        cut_off = []
        for finish in finished:
            live = self._table.running.pop(finish.id, None)
            if live is None:
                continue
            lost = finish.reason == "cancelled"  # not by us: our stream was away for too long
            shrunk = finish.reason == "error" and not self._fits(live)
            if lost or shrunk:
                cut_off.append(live)
            elif finish.reason == "error":
                reason = finish.message or "no reason given"
                error = GenerationFailed(f"the engine failed: {reason}")
                self._settlement.end(live, "error", error)
            else:
                self._settlement.end(live, finish.reason)
        self._dispatcher.resume(cut_off)

    def _fits(self, live: RequestState) -> bool:
        """Whether the engine could hold a request at its longest."""
        return len(live.prompt) + live.max_tokens <= self._session.served.context_tokens

    def _revise(self) -> None:
        """Advise the engine of each answer's remaining length, given how long it is already."""
        lengths = LengthDistributions.of(self._table.in_engine())
        medians = lengths.remaining_quantile(0.5).round().astype(int).tolist()
        self._session.revise(dict(zip(self._table.running, medians, strict=True)))

    def _give_up(self, lost_at_s: float) -> None:
        """End what waits for an engine that did not come back."""
        if self._session.lost_at_s == lost_at_s:
            waiting, running = len(self._table.waiting), len(self._table.running)
            log.error("engine_given_up", waiting=waiting, running=running)
            error = EngineLost("the engine does not answer; ask again in a moment")
            self._dispatcher.cancel_all(error)
