"""Queues requests in front of the engines and dispatches them in batches."""

import asyncio
import time
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Many
from itertools import count
from typing import Final

import structlog
from msgspec import structs

from engine.protocol import KvState, Sequence, SequenceId
from gateway.errors import ContextLengthExceeded, GenerationFailed, LmaasError, Unavailable
from gateway.generation.dispatch_sources import DispatchSources
from gateway.generation.engines.group import EngineGroup
from gateway.generation.engines.session import mode_of
from gateway.generation.insight.estimates import expected_remainders
from gateway.generation.insight.queue_waits import QueueWaits
from gateway.generation.insight.shedding import shedding_error
from gateway.generation.metrics import GatewayMetrics
from gateway.generation.pins import PrefixPins
from gateway.generation.preemption import PreemptionOrder
from gateway.generation.queue.load import QueueLoad
from gateway.generation.queue.position import QueuePositions
from gateway.generation.recording import Origin
from gateway.generation.request_state import RequestState
from gateway.generation.request_table import RequestTable, by_engine
from gateway.generation.settlement import Settlement
from gateway.prediction.messages import Prediction
from gateway.scheduling.control_loop import ControlLoop
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.host_lane import HostLane
from gateway.scheduling.magnus.lockstep import halves_of
from gateway.scheduling.policy import Policy

MAX_DISPATCHES_PER_TURN: Final = 8  # per turn of the event loop, which also serves streams
MAX_LOSSES: Final = 8  # of a request's engine, in a row without a token of it
QUEUE_CHECK_S: Final = 0.25  # interval of the check for expired queue times

log = structlog.get_logger()


class Dispatcher:
    """Queues requests and submits them to the engines as the control loop decides."""

    def __init__(
        self,
        loop: ControlLoop,
        host_lane: HostLane,
        table: RequestTable,
        engines: EngineGroup,
        settlement: Settlement,
        preemption: PreemptionOrder,
        pins: PrefixPins,
        load: QueueLoad,
        positions: QueuePositions,
        waits: QueueWaits,
        sources: DispatchSources,
        metrics: GatewayMetrics,
        origin: Origin,
        clock: Callable[[], float],
    ) -> None:
        self._loop = loop
        self._host_lane = host_lane
        self._table = table
        self._engines = engines
        self._settlement = settlement
        self._preemption = preemption
        self._pins = pins
        self._load = load
        self._positions = positions
        self._waits = waits
        self._sources = sources
        self._metrics = metrics
        self._batches = map(f"{origin.gateway_id.hex[:12]}-{{}}".format, count(1))
        self._clock = clock
        self._fallback = loop.fallback
        self._deciding = False
        self._check_scheduled = False
        self._revised: dict[RequestState, None] = {}  # since the last decision

    def enqueue(self, state: RequestState) -> None:
        """Add a request to the queue: to that of host memory if the device cannot hold it."""
        self._table.waiting[state.id.hex] = state
        state.queued_step = self._loop.steps
        if state.request.memory != "device" and not self._fits_device(state):
            state.place_on_host("does_not_fit")
        if state.lane == "interactive":  # its bounds and estimates leave jobs out, which yield
            self._load.add(state.id.hex, state.tenant, state.predicted_tokens)
        else:
            self._pins.add(state)
        if state.in_order:
            state.set_queued(self._positions.arrive(state.id.hex, state.prediction.median))
        self._arrive(state)
        if state.lane == "interactive":
            self._expect(state)
        self.decide_soon()
        self._schedule_check()

    def _expect(self, state: RequestState) -> None:
        """Note when a queued request is expected to start and to end."""
        self._waits.arrived(state)
        self._expect_finish(state)

    def _expect_finish(self, state: RequestState) -> None:
        start_s = state.trace.expected_start_s
        if state.in_order:
            state.expect_finish(self._positions.finish_s(start_s, state.prediction.median))
        elif start_s is not None:
            state.expect_finish(start_s + self._waits.runs_s(state))

    def revise(self, state: RequestState, prediction: Prediction) -> None:
        """Take up another prediction, with all others that come before the next decision.

        What waits is ranked again by it; of what runs, the memory that is held for it and the
        remaining length that the engine knows are revised. Ignored once it has ended.
        """
        if not state.ended:
            state.prediction = prediction
            self._revised[state] = None
            self.decide_soon()

    def cancel(self, state: RequestState, error: LmaasError | None = None) -> None:
        """End a request whose answer is no longer wanted; the next step frees its KV pages."""
        if state.ended:
            return
        if state.id.hex in self._table.waiting:
            self._withdraw(state)
        else:
            self._table.running.pop(state.sequence_id, None)
            if state.engine is not None:
                self._engines[state.engine].cancel([state.sequence_id])
        failed = isinstance(error, Unavailable)  # by us, not by its client or an operator
        self._settlement.end(state, "error" if failed else "cancelled", error)
        self.decide_soon()

    def cancel_all(self, error: LmaasError) -> None:
        """End every queued and running request with this error."""
        for state in self._table:
            self.cancel(state, error)

    def use(self, policy: Policy) -> None:
        """Switch to another policy: it takes over the queue, running requests continue."""
        before = self._loop.policy
        if policy is before:
            return
        returned = self._empty_host_memory() if mode_of(policy) == "lockstep" else []
        self._loop.use(policy, self._table.queued(), self._table.in_engine())
        waiting = len(self._table.waiting)
        log.info("policy_changed", before=before.name, now=policy.name, waiting=waiting)
        self._engines.set_mode(mode_of(policy))
        if returned:
            self.resume(returned)
            self._loop.refresh(self._table.in_engine())
        self.decide_soon()

    def _empty_host_memory(self) -> list[RequestState]:
        """End what only host memory can hold, as nothing runs there in lock step.

        Returns what the device can hold, to go on there.
        """
        returned = []
        for state in [state for state in self._table if state.on_host]:
            if not self._fits_device(state):
                self.cancel(state, Unavailable("in lock step nothing runs in host memory"))
                continue
            self._host_lane.ended(state.id.hex)
            state.return_to_device()
            if state.engine is not None:  # else it goes on with others of the lost engine
                del self._table.running[state.sequence_id]
                self._engines[state.engine].cancel([state.sequence_id])
                returned.append(state)
        return returned

    def resize(self, kv: KvState, engine: int = 0) -> None:
        """Adopt an engine's KV memory size; end queued requests that no longer fit it."""
        session = self._engines[engine]
        session.resized(kv)
        most_running = session.served.max_running or None
        self._loop.resize(kv.pages, kv.page_tokens, most_running, engine=engine)
        if len(self._engines) == 1:  # host memory is for one engine
            self._host_lane.resize(kv.offload_pages, kv.page_tokens)
        self._load.set_context(self._engines.served.context_tokens)
        for state in list(self._table.waiting.values()):
            before = state.max_tokens
            if not self._limit_to_context(state):
                self._withdraw(state)
            elif state.max_tokens != before:
                self._leave(state)
                self._arrive(state)

    def limit(self, max_running: int, engine: int = 0) -> None:
        """Adopt the number of sequences that an engine takes."""
        session = self._engines[engine]
        session.limited(max_running)
        kv = session.served.kv
        self._loop.resize(kv.pages, kv.page_tokens, max_running, engine=engine)
        self.decide_soon()

    def lose(self, engine: int) -> None:
        """An engine was lost: what it had goes on on others, or once one is connected."""
        self._loop.lose(engine)
        for state in self._table.on(engine):
            state.lose_engine()
        if self._engines.connected:
            self.go_on()

    def go_on(self) -> None:
        """Resume on the connected engines what lost ones ran, from the tokens generated so far.

        A request fails with which engines were lost again and again: it may be what ends them.
        """
        unfinished = self._table.on(None)
        for state in unfinished:
            del self._table.running[state.sequence_id]
        if unfinished:
            log.info("sequences_resumed", count=len(unfinished))
        self.resume(filter(self._may_go_on, unfinished))
        self._loop.refresh(self._table.in_engine())
        self.decide_soon()

    def _may_go_on(self, state: RequestState) -> bool:
        """False if that ended the request: too many engines were lost with it in a row."""
        if state.losses < MAX_LOSSES:
            return True
        log.error("request_lost_engines", request=str(state.id), lane=state.lane)
        reason = f"the engine was lost {state.losses} times while it had the request"
        self._settlement.end(state, "error", GenerationFailed(reason))
        return False

    def resume(self, unfinished: Iterable[RequestState]) -> None:
        """Submit requests again under new sequence ids; they continue where they stopped.

        Those whose engine was lost do so on another one.
        """
        states = list(filter(self._limit_to_context, unfinished))
        for state in states:
            state.attempt += 1
            if state.engine is None:
                state.engine = self._engine_for(state)
            if state.on_host:
                self._host_lane.resumed(state.to_queued())
        if states:
            self._submit("resumed", states)

    def _engine_for(self, state: RequestState) -> int:
        """The engine on which a request goes on whose own was lost."""
        if len(self._engines) == 1:
            return 0
        assert state.queued_request is not None
        request = structs.replace(state.queued_request, generated=len(state.tokens))
        engine = self._loop.move(state.to_running(), request)
        assert engine is not None, "an engine is connected"
        self._metrics.moved()
        return engine

    def split(self, returned: Iterable[SequenceId]) -> None:
        """Queue a lock-step batch that the engine returned for lack of memory again, in two halves.

        Its requests go on where they stopped. While an operator drains the engine, or if the policy
        has changed to one without lock step, they do so in the engine at once.
        """
        running = self._table.running
        present = [running.pop(name) for name in returned if name in running]
        states = [state for state in present if self._limit_to_context(state)]
        if not states:
            return
        self._metrics.split()
        log.info("batch_split", batch=states[0].trace.batch, size=len(states))
        queued = not self._engines.draining
        if queued and self._loop.halve([state.to_queued() for state in states]):
            for state in states:
                state.set_queued_again()
                self._table.waiting[state.id.hex] = state
                if state.lane == "interactive":
                    self._load.add(state.id.hex, state.tenant, state.predicted_tokens)
            self.decide_soon()
            return
        self._loop.interrupt()
        for half in halves_of(states):
            self.resume(half)

    def drain(self, engine: int) -> None:
        """Dispatch nothing to an engine until resumed; all that has started finishes.

        Split batches do so too, which are for one engine.
        """
        self._engines[engine].drain()
        self._loop.drain(engine, draining=True)
        started = [state for state in self._table.waiting.values() if state.queued_again]
        for state in started:
            self._withdraw(state)
            state.queued_again = False
        self.resume(started)
        self._loop.refresh(self._table.in_engine())

    def decide_soon(self) -> None:
        """Schedule one decision for all events of this turn of the event loop."""
        if not self._deciding:
            self._deciding = True
            asyncio.get_running_loop().call_soon(self._decide)

    def _decide(self) -> None:
        self._deciding = False
        self._waits.decided()
        self._take_up_revisions()
        self._shed()
        for _ in range(MAX_DISPATCHES_PER_TURN):
            if not self._table.waiting or not self._engines.accepting:
                return
            began_s = time.perf_counter()
            dispatch = self._host_lane.dispatch(self._clock()) or self._next_dispatch()
            self._metrics.decided(time.perf_counter() - began_s)
            self._show_fallback()
            if dispatch is None:
                return
            self._send(dispatch)
        self.decide_soon()

    def _take_up_revisions(self) -> None:
        states = [state for state in self._revised if not state.ended]
        self._revised.clear()
        waiting = [state for state in states if state.id.hex in self._table.waiting]
        running = [state for state in states if state.sequence_id in self._table.running]
        self._host_lane.revise([state.to_queued() for state in states if state.on_host])
        for state in waiting:
            if state.lane == "interactive":
                self._load.revise(state.id.hex, state.predicted_tokens)
                self._expect_finish(state)
        ordered = [
            [state.to_queued() for state in part if not state.on_host]
            for part in (waiting, running)
        ]
        if any(ordered):
            self._loop.revise(*ordered)
        for state in waiting:
            if state.lane == "interactive":
                self._waits.revised(state)
        for number, states in by_engine(running).items():
            self._engines[number].revise(expected_remainders(states), {})

    def _next_dispatch(self) -> Dispatch | None:
        """What to start now.

        What fits; else what host memory takes instead; else what takes the place of a tenant over
        its share.
        """
        now_s = self._clock()
        dispatch = self._loop.dispatch(now_s, self._table.in_engine)
        if dispatch is None:
            dispatch = self._loop.move_to_host(now_s, self._table.in_engine, self._host_lane)
        kv = self._engines[0].kv
        if dispatch is None and kv is not None:
            dispatch = self._loop.make_room(now_s, self._table.in_engine, kv.free)
        return dispatch

    def _show_fallback(self) -> None:
        """Set the fallback metric: whether the policy falls back to order of arrival, and why."""
        if self._loop.fallback != self._fallback:
            self._fallback = self._loop.fallback
            self._metrics.fallback(self._fallback)

    def _send(self, dispatch: Dispatch) -> None:
        now_s = self._clock()
        batch = next(self._batches)
        kv = self._engines.kv
        states = [self._table.waiting.pop(request.id) for request in dispatch.requests]
        starting = [state for state in states if not state.queued_again]
        for state in states:
            state.engine = self._loop.engine_of(state.id.hex)
            if state.lane == "interactive":
                self._load.remove(state.id.hex)
            if state.queued_again:
                state.set_continued(batch, len(states))
                continue
            state.set_dispatched(
                dispatch,
                now_s,
                batch=batch,
                policy=self._loop.policy.name,
                passed_by=self._passed_by(state, now_s),
                kv_free_pages=kv.free if kv else None,
            )
            self._sources.dispatched(state, now_s)
            if state.lane == "interactive":
                self._waits.started(state, now_s)
            if dispatch.on_host:
                self._start_on_host(state)
        self._settlement.started(starting)
        self._table.running.update({state.sequence_id: state for state in states})
        self._preemption.starting(states)
        self._submit(batch, states)
        if dispatch.preempt:  # after the submission: what it makes room for is there by then
            self._preemption.request(dispatch.preempt)
        interactive = [state for state in starting if state.lane == "interactive"]
        self._metrics.dispatched(dispatch, [now_s - state.arrived_s for state in interactive])
        log.debug(
            "batch_dispatched",
            batch=batch,
            size=len(states),
            ratio=round(dispatch.ratio, 3),
            waited_s=round(dispatch.waited_s, 3),
            preempted=len(dispatch.preempt),
        )

    def _start_on_host(self, state: RequestState) -> None:
        """Note where a request starts; the policy ordered it if the device could hold it."""
        if state.host_reason is None:
            state.place_on_host("would_preempt")
        assert state.host_reason is not None
        self._metrics.started_on_host(state.host_reason)

    def _passed_by(self, state: RequestState, now_s: float) -> int | None:
        """How many later arrivals left the queue before it; None if the policy orders it not."""
        if not state.in_order:
            return None
        return self._positions.start(state.id.hex, now_s)

    def _submit(self, batch: str, states: Many[RequestState]) -> None:
        """Submit requests to their engines as one batch, with the prefixes to pin before it."""
        for number, own in by_engine(states).items():
            sequences = [self._sequence(state) for state in own]
            self._engines[number].submit(batch, sequences, self._pins.starting(own))
            self._metrics.submitted(number, len(own))

    def _sequence(self, state: RequestState) -> Sequence:
        """Move the request to the running ones and return its engine sequence."""
        assert state.queued_request is not None
        self._table.running[state.sequence_id] = state
        state.preempt_first = self._preemption.of(state)
        state.suspended = False
        lane = self._host_lane if state.on_host else self._loop
        return state.to_sequence(self._engines.served.stop_ids, lane.reserve(state.queued_request))

    def _limit_to_context(self, state: RequestState) -> bool:
        """Limit the answer to the engine's context.

        False if that ended the request: it cannot fit, or its answer is as long already.
        """
        try:
            state.limit_to_context(self._engines.context_tokens(state.memory))
        except ContextLengthExceeded as error:
            self._settlement.end(state, "error", error)
            return False
        if len(state.tokens) >= state.max_tokens:
            self._settlement.end(state, "length")
            return False
        return True

    def _withdraw(self, state: RequestState) -> None:
        """Remove a request from the queue before it started."""
        del self._table.waiting[state.id.hex]
        self._leave(state)
        if state.lane == "batch":
            return
        self._load.remove(state.id.hex)
        if not state.queued_again:
            self._left(state)

    def _left(self, state: RequestState) -> None:
        """An interactive request left the queue without a start."""
        if state.in_order:
            self._positions.withdraw(state.id.hex)
        self._waits.left(state)

    def _fits_device(self, state: RequestState) -> bool:
        """Whether the device holds prompt and longest answer."""
        return len(state.prompt) + state.max_tokens <= self._engines.context_tokens("device")

    def _arrive(self, state: RequestState) -> None:
        """Give a request to the queue that orders it."""
        if state.on_host:
            self._host_lane.arrive(state.to_queued())
        else:
            self._loop.arrive(state.to_queued())

    def _leave(self, state: RequestState) -> None:
        """Take a request from the queue that orders it."""
        if state.on_host:
            self._host_lane.withdraw(state.id.hex)
        else:
            self._loop.withdraw(state.id.hex)

    def _schedule_check(self) -> None:
        """Check the queue for expired requests at an interval, also without engine events."""
        if not self._check_scheduled and self._table.waiting:
            self._check_scheduled = True
            asyncio.get_running_loop().call_later(QUEUE_CHECK_S, self._check_queue)

    def _check_queue(self) -> None:
        self._check_scheduled = False
        self._shed()
        self._schedule_check()

    def _shed(self) -> None:
        """Load shedding: end queued requests that cannot meet their deadline or queue time."""
        now_s = self._clock()
        for request in (*self._loop.give_up(now_s), *self._host_lane.give_up(now_s)):
            state = self._table.waiting.pop(request.id)
            if request.lane == "interactive":
                self._load.remove(request.id)
                self._left(state)
            again = self._waits.of_new(request) if state.in_order else None
            self._settlement.end(state, "cancelled", shedding_error(state, now_s, again))
