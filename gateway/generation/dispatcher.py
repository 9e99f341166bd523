"""The queue in front of the engine: what waits, and what is handed over next."""

import asyncio
import time
from collections.abc import Callable, Iterable
from itertools import count
from typing import Final

import structlog

from engine.protocol import KvState, Mode, Sequence
from gateway.errors import (
    ContextLengthExceeded,
    DeadlineUnreachable,
    LmaasError,
    QueueTimeExceeded,
)
from gateway.generation.engine_session import EngineSession
from gateway.generation.metrics import Metrics
from gateway.generation.queue_position import QueuePositions
from gateway.generation.recording import Origin
from gateway.generation.request_state import RequestState
from gateway.generation.request_table import RequestTable
from gateway.generation.settlement import Settlement
from gateway.scheduling.control_loop import ControlLoop
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.policy import Policy

DISPATCHES_A_TURN: Final = 8  # of the event loop, which has streams to serve too
WATCH_S: Final = 0.25  # how late a queue time is noticed to be over, if nothing else happens

log = structlog.get_logger()


class Dispatcher:
    """Queues requests and hands them to the engine as the control loop decides."""

    def __init__(
        self,
        loop: ControlLoop,
        table: RequestTable,
        session: EngineSession,
        settlement: Settlement,
        positions: QueuePositions,
        metrics: Metrics,
        origin: Origin,
        clock: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._table = table
        self._session = session
        self._settlement = settlement
        self._positions = positions
        self._metrics = metrics
        self._batches = map(f"{origin.gateway_id.hex[:12]}-{{}}".format, count(1))
        self._clock = clock
        self._fallback = loop.fallback
        self._deciding = False
        self._watching = False

    def enqueue(self, live: RequestState) -> None:
        """Let a request wait for its turn."""
        self._table.waiting[live.id.hex] = live
        live.queued(self._positions.arrive(live.id.hex, live.prediction.median))
        self._loop.arrive(live.waiting())
        self.decide_soon()
        self._watch()

    def cancel(self, live: RequestState, error: LmaasError | None = None) -> None:
        """End a request whose answer is no longer wanted; its pages are freed at the next step."""
        if live.done:
            return
        if live.id.hex in self._table.waiting:
            self._withdraw(live)
        elif self._table.running.pop(live.sequence_id, None) is not None:
            self._session.cancel([live.sequence_id])
        self._settlement.end(live, "cancelled", error)
        self.decide_soon()

    def cancel_all(self, error: LmaasError) -> None:
        """End everything."""
        for live in self._table:
            self.cancel(live, error)

    def use(self, policy: Policy) -> None:
        """Schedule by another policy from now on; what waits moves there, what runs goes on."""
        before = self._loop.policy
        if policy is before:
            return
        self._loop.use(policy, self._table.queued(), self._table.in_engine())
        waiting = len(self._table.waiting)
        log.info("policy_changed", before=before.name, now=policy.name, waiting=waiting)
        self._session.set_mode(mode_of(policy))
        self.decide_soon()

    def resize(self, kv: KvState) -> None:
        """Count on the engine's memory as it is now; end what waits and does not fit any more."""
        self._session.resized(kv)
        self._loop.resize(kv.pages, kv.page_tokens)
        for live in list(self._table.waiting.values()):
            before = live.max_tokens
            if not self._bound(live):
                self._withdraw(live)
            elif live.max_tokens != before:
                self._loop.withdraw(live.id.hex)
                self._loop.arrive(live.waiting())

    def reopen(self) -> None:
        """A fresh engine: what ran in the one before goes on from what it had generated."""
        unfinished = list(self._table.running.values())
        self._table.running.clear()
        if unfinished:
            log.info("sequences_resumed", count=len(unfinished))
        self.resume(unfinished)
        self._loop.refresh(self._table.in_engine())
        self.decide_soon()

    def resume(self, unfinished: Iterable[RequestState]) -> None:
        """Hand requests over again, under a new name, to go on where they stopped."""
        sequences = []
        for live in filter(self._bound, unfinished):
            live.attempt += 1
            if len(live.tokens) >= live.max_tokens:
                self._settlement.end(live, "length")
            else:
                sequences.append(self._sequence(live))
        if sequences:
            self._session.submit("resumed", sequences)

    def decide_soon(self) -> None:
        """One decision for all that happens in this turn of the event loop."""
        if not self._deciding:
            self._deciding = True
            asyncio.get_running_loop().call_soon(self._decide)

    def _decide(self) -> None:
        self._deciding = False
        self._give_up()
        for _ in range(DISPATCHES_A_TURN):
            if not self._table.waiting or not self._session.accepting:
                return
            began_s = time.perf_counter()
            dispatch = self._loop.dispatch(self._clock(), self._table.in_engine)
            self._metrics.decided(time.perf_counter() - began_s)
            self._show_fallback()
            if dispatch is None:
                return
            self._send(dispatch)
        self.decide_soon()

    def _show_fallback(self) -> None:
        """Show in a metric whether the policy falls back on order of arrival, and why."""
        if self._loop.fallback != self._fallback:
            self._fallback = self._loop.fallback
            self._metrics.fallback(self._fallback)

    def _send(self, dispatch: Dispatch) -> None:
        now_s = self._clock()
        batch = next(self._batches)
        kv = self._session.kv
        sequences = []
        for request in dispatch.requests:
            live = self._table.waiting.pop(request.id)
            live.dispatched(
                dispatch,
                now_s,
                batch=batch,
                policy=self._loop.policy.name,
                passed_by=self._positions.start(request.id, now_s),
                kv_free_pages=kv.free if kv else None,
            )
            sequences.append(self._sequence(live))
        self._session.submit(batch, sequences)
        self._metrics.dispatched(dispatch)
        log.debug(
            "batch_dispatched",
            batch=batch,
            size=len(sequences),
            ratio=round(dispatch.ratio, 3),
            waited_s=round(dispatch.waited_s, 3),
        )

    def _sequence(self, live: RequestState) -> Sequence:
        """The request as the engine runs it, from now on among the running ones."""
        assert live.request is not None
        self._table.running[live.sequence_id] = live
        return live.sequence(self._session.served.stop_ids, self._loop.reserve(live.request))

    def _bound(self, live: RequestState) -> bool:
        """Keep an answer within the context there is; a request that does not fit it ends."""
        try:
            live.bound(self._session.served.context_tokens)
        except ContextLengthExceeded as error:
            self._settlement.end(live, "error", error)
            return False
        return True

    def _withdraw(self, live: RequestState) -> None:
        """Take a request out of the queue without a start."""
        del self._table.waiting[live.id.hex]
        self._loop.withdraw(live.id.hex)
        self._positions.withdraw(live.id.hex)

    def _watch(self) -> None:
        """Check on what waits from time to time, even if nothing else happens."""
        if not self._watching and self._table.waiting:
            self._watching = True
            asyncio.get_running_loop().call_later(WATCH_S, self._look)

    def _look(self) -> None:
        self._watching = False
        self._give_up()
        self._watch()

    def _give_up(self) -> None:
        """End what cannot be answered in time, before it costs anything."""
        now_s = self._clock()
        for request in self._loop.give_up(now_s):
            live = self._table.waiting.pop(request.id)
            self._positions.withdraw(request.id)
            self._settlement.end(live, "cancelled", given_up(live, now_s))


def mode_of(policy: Policy) -> Mode:
    """How the engine batches under this policy."""
    return "lockstep" if policy.lockstep else "continuous"


def given_up(live: RequestState, now_s: float) -> DeadlineUnreachable:
    """Why a request is given up before its start."""
    waited_s = now_s - live.arrived_s
    assert live.request is not None
    start_by_s = live.request.start_by_s
    if start_by_s is not None and now_s > start_by_s:
        return QueueTimeExceeded(
            f"it waited {waited_s:.1f} s, as long as it was allowed to, and has not started",
            param="x-lmaas-max-queue-ms",
            retry_after_s=max(waited_s, 1.0),
        )
    low, high = live.prediction.quantiles[0], live.prediction.quantiles[4]
    return DeadlineUnreachable(
        f"after {waited_s:.1f} s in the queue the answer, {low:.0f} to {high:.0f} tokens in all "
        "likelihood, cannot be there in time",
        param="x-lmaas-deadline-ms",
        retry_after_s=max(waited_s, 1.0),
    )
