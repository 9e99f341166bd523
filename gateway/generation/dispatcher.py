"""Hands batches to the engine as the policy says, and each step's tokens to their requests."""

import asyncio
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from typing import Final
from uuid import UUID

import msgspec
import structlog

from engine.protocol import EngineInfo, Finish, KvState, Mode, Refused, Step
from gateway.engines.interface import Engine
from gateway.errors import (
    ContextLengthExceeded,
    EngineLost,
    GenerationFailed,
    LmaasError,
)
from gateway.generation.giving_up import given_up
from gateway.generation.live import LiveRequest
from gateway.generation.metrics import Metrics
from gateway.generation.places import Places
from gateway.scheduling.in_flight import BatchesInFlight
from gateway.scheduling.policies import Dispatch, Policy
from gateway.scheduling.remaining import Lengths

STEPS_BETWEEN_DECISIONS: Final = 16  # while requests wait and nothing finishes
DISPATCHES_A_TURN: Final = 8  # of the event loop, which has streams to serve too
STEPS_BETWEEN_REVISIONS: Final = 32
OUTAGE_S: Final = 30.0  # an engine away for longer is not waited for
WATCH_S: Final = 0.25  # how late a queue time is noticed to be over, if nothing else happens
ENDS_BETWEEN_JUDGEMENTS: Final = 20  # of whether predictions hold

log = structlog.get_logger()


class Dispatcher:
    """The queue in front of one engine. It decides when; the policy decides what.

    `info` describes the newest engine, its memory as it is now; `step` is its newest step.
    `lost_at_s` is None while it answers. While `paused` or `draining` nothing is dispatched.
    `on_end` is called once for every request that ended, before its reader gets to run.
    `trusted` tells whether predictions hold; while they do not, the policy falls back.
    """

    def __init__(
        self,
        model: str,
        policy: Policy,
        on_end: Callable[[LiveRequest], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        outage_s: float = OUTAGE_S,
        trusted: Callable[[], bool] = lambda: True,
        metrics: Metrics | None = None,
    ) -> None:
        self.policy = policy
        self._model = model
        self._on_end = on_end
        self._clock = clock
        self._outage_s = outage_s
        self._trusted = trusted
        self._trusts = True
        self.metrics = metrics or Metrics()
        self._engine: Engine | None = None
        self.info: EngineInfo | None = None
        self.step: Step | None = None
        self.mode: Mode = "lockstep" if policy.lockstep else "continuous"
        self.paused = False
        self.draining = False
        self.lost_at_s: float | None = clock()
        self._ready = asyncio.Event()
        self._waiting: dict[str, LiveRequest] = {}
        self._running: dict[str, LiveRequest] = {}
        self._batches = BatchesInFlight()
        self._places = Places()
        self._order = "policy", "short_queue"
        self._deciding = False
        self._watching = False
        self._steps = 0
        self._ends = 0
        self._pressed_ends = 0  # while others waited
        self._preemptions = 0

    @property
    def connected(self) -> bool:
        """Whether an engine is there."""
        return self.lost_at_s is None

    @property
    def held(self) -> bool:
        """Whether an operator keeps requests from the engine."""
        return self.paused or self.draining

    @property
    def busy_s(self) -> float:
        """For how long a step of the engine has been under way."""
        return self._engine.busy_s if self._engine else 0.0

    async def ready(self) -> EngineInfo:
        """The engine's description, once it is there."""
        await self._ready.wait()
        assert self.info is not None
        return self.info

    @property
    def waiting(self) -> int:
        """Requests not yet handed to the engine."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Requests handed to the engine and not ended."""
        return len(self._running)

    @property
    def trusts(self) -> bool:
        """Whether predictions hold; False: requests go in order of arrival."""
        return self._trusts

    def waiting_requests(self) -> Iterator[LiveRequest]:
        """Requests not yet handed to the engine, in order of arrival."""
        return iter(self._waiting.values())

    def running_requests(self) -> Iterator[LiveRequest]:
        """Requests handed to the engine and not ended."""
        return iter(self._running.values())

    def find(self, request_id: UUID) -> LiveRequest | None:
        """A request that waits or runs."""
        waiting = self._waiting.get(request_id.hex)
        return waiting or next((r for r in self._running.values() if r.id == request_id), None)

    def attach(self, engine: Engine) -> None:
        """Use this engine; it tells when it is ready."""
        self._engine = engine

    def enqueue(self, live: LiveRequest) -> None:
        """Let a request wait for its turn."""
        self._waiting[live.id.hex] = live
        self._places.arrive(live)
        request = live.waiting(self._model)
        self.policy.arrive(request)
        self._decide_soon()
        self._watch()

    def use(self, policy: Policy) -> None:
        """Schedule by another policy from now on; what waits moves there, what runs goes on."""
        if policy is self.policy:
            return
        if self.info is not None:
            policy.resize(self.info.kv.pages, self.info.kv.page_tokens)
        for request_id, live in self._waiting.items():
            self.policy.withdraw(request_id)
            policy.arrive(live.waiting(self._model))
        log.info("policy_changed", before=self.policy.name, now=policy.name, waiting=self.waiting)
        self.policy = policy
        policy.trust(self._trusts)
        self._refresh()
        mode: Mode = "lockstep" if policy.lockstep else "continuous"
        if mode != self.mode:
            self.set_mode(mode)
        self._decide_soon()

    def pause(self) -> None:
        """Give the engine nothing and let it compute nothing, until resumed; memory is kept.

        Holds for every engine: one that takes its place is paused too.
        """
        self.paused = True
        self._batches.clear()  # how long a pause took says nothing of a batch
        log.info("engine_paused", waiting=self.waiting, running=self.running)
        if self._engine:
            self._engine.pause()

    def drain(self) -> None:
        """Start nothing until resumed; what runs goes on to its end, in the next engine too.

        The engine is not told: it would refuse what another one was running when it died.
        """
        self.draining = True
        log.info("engine_draining", waiting=self.waiting, running=self.running)

    def resume(self) -> None:
        """End a pause or a drain."""
        self.paused = self.draining = False
        log.info("engine_resumed", waiting=self.waiting, running=self.running)
        if self._engine:
            self._engine.resume()
        self._decide_soon()

    def set_mode(self, mode: Mode) -> None:
        """Batch by iteration, or in lock step, in whatever engine is there."""
        self.mode = mode
        if self._engine:
            self._engine.set_mode(mode)

    def cancel(self, live: LiveRequest, error: LmaasError | None = None) -> None:
        """End a request whose answer nobody wants; its pages are freed at the next step."""
        if live.done:
            return
        if self._waiting.pop(live.id.hex, None) is not None:
            self.policy.withdraw(live.id.hex)
            self._places.withdraw(live)
        elif self._running.pop(live.sequence_id, None) is not None and self._engine:
            self._engine.cancel([live.sequence_id])
            self._decide_soon()
        self._end(live, "cancelled", error)

    def cancel_all(self, error: LmaasError) -> None:
        """End everything: the gateway stops."""
        for live in (*self._waiting.values(), *self._running.values()):
            self.cancel(live, error)

    def engine_ready(self, info: EngineInfo) -> None:
        """A fresh engine: what was running goes on from what it had generated."""
        self.info, self.step, self.lost_at_s = info, None, None
        self._ready.set()
        self._instruct()
        self._resize(info.kv)
        unfinished = list(self._running.values())
        self._running.clear()
        if unfinished:
            log.info("sequences_resumed", count=len(unfinished))
        self._resume(unfinished)
        self._refresh()
        self._decide_soon()

    def _instruct(self) -> None:
        """Tell a fresh engine what the one before was told."""
        assert self._engine is not None
        if self.mode != "continuous":
            self._engine.set_mode(self.mode)
        if self.paused:
            self._engine.pause()

    def _resize(self, kv: KvState) -> None:
        """Count on the engine's memory as it is now; end what waits and does not fit any more."""
        assert self.info is not None
        context_tokens = min(self.info.context_tokens, kv.pages * kv.page_tokens)
        self.info = msgspec.structs.replace(self.info, kv=kv, context_tokens=context_tokens)
        self.policy.resize(kv.pages, kv.page_tokens)
        for request_id, live in list(self._waiting.items()):
            before = live.max_tokens
            if not self._bound(live):
                self.policy.withdraw(request_id)
                self._places.withdraw(self._waiting.pop(request_id))
            elif live.max_tokens != before:
                self.policy.withdraw(request_id)
                self.policy.arrive(live.waiting(self._model))

    def _bound(self, live: LiveRequest) -> bool:
        """Keep an answer within the context there is; a request that does not fit it ends."""
        assert self.info is not None
        try:
            live.bound(self.info.context_tokens)
        except ContextLengthExceeded as error:
            self._end(live, "error", error)
            return False
        return True

    def engine_lost(self) -> None:
        """Wait for the next engine; nothing is dispatched meanwhile."""
        self.lost_at_s = self._clock()
        self._ready.clear()
        self._batches.clear()  # how long an outage took says nothing of a batch
        asyncio.get_running_loop().call_later(self._outage_s, self._give_up, self.lost_at_s)

    def _give_up(self, lost_at_s: float) -> None:
        """End what waits for an engine that did not come back."""
        if self.lost_at_s == lost_at_s:
            log.error("engine_given_up", waiting=self.waiting, running=self.running)
            self.cancel_all(EngineLost("the engine does not answer; ask again in a moment"))

    def engine_refused(self, refused: Many[Refused]) -> None:
        """The engine will never run these."""
        for item in refused:
            live = self._running.pop(item.id, None)
            if live:
                self._end(live, "error", GenerationFailed(f"the engine refused it: {item.reason}"))
        self._decide_soon()

    def engine_stepped(self, step: Step) -> None:
        """Give each request its tokens, end those that finished, and decide anew."""
        now_s = self._clock()
        self.step = step
        if self.info is not None and step.kv.pages != self.info.kv.pages:
            log.warning("kv_resized", pages=step.kv.pages, before=self.info.kv.pages)
            self._resize(step.kv)
        stopped = []
        for sequence_id, tokens in step.tokens.items():
            live = self._running.get(sequence_id)
            if live and live.grow(tokens, now_s, step.logprobs.get(sequence_id, ())):
                stopped.append(live)
        self._stop(stopped)
        for sequence_id in step.preempted:
            live = self._running.get(sequence_id)
            if live:
                self._preemptions += 1
                live.preemptions += 1
        if step.finished:
            self._finish(step.finished)
        self._steps += 1
        self.metrics.stepped(step)
        self.policy.admission.advance(1)
        if self._steps % STEPS_BETWEEN_REVISIONS == 0 and self._running:
            self._revise()
        if self._waiting and (
            step.finished or stopped or self._steps % STEPS_BETWEEN_DECISIONS == 0
        ):
            self._decide_soon()

    def _revise(self) -> None:
        """Tell the engine how much longer each answer will be, now that it is so long already."""
        assert self._engine is not None
        running = [live.running() for live in self._running.values()]
        medians = Lengths.of(running).remaining_quantile(0.5).round().astype(int).tolist()
        self._engine.revise(dict(zip(self._running, medians, strict=True)))

    def _stop(self, stopped: Many[LiveRequest]) -> None:
        """End answers at their stop string; what the engine still generates is dropped."""
        for live in stopped:
            del self._running[live.sequence_id]
            self._end(live, "stop")
        if stopped and self._engine:
            self._engine.cancel([live.sequence_id for live in stopped])

    def _finish(self, finished: Many[Finish]) -> None:
        cut_off = []
        for finish in finished:
            live = self._running.pop(finish.id, None)
            if live is None:
                continue
            lost = finish.reason == "cancelled"  # not by us: our stream was away for too long
            shrunk = finish.reason == "error" and not self._fits(live)
            if lost or shrunk:
                cut_off.append(live)
            elif finish.reason == "error":
                reason = finish.message or "no reason given"
                self._end(live, "error", GenerationFailed(f"the engine failed: {reason}"))
            else:
                self._end(live, finish.reason)
        self._resume(cut_off)

    def _fits(self, live: LiveRequest) -> bool:
        """Whether the engine could hold a request at its longest."""
        assert self.info is not None
        return len(live.prompt) + live.max_tokens <= self.info.context_tokens

    def _resume(self, unfinished: Many[LiveRequest]) -> None:
        """Hand requests over anew, under a new name, to go on where they stopped."""
        assert self._engine is not None
        assert self.info is not None
        sequences = []
        for live in filter(self._bound, unfinished):
            live.attempt += 1
            if len(live.tokens) >= live.max_tokens:
                self._end(live, "length")
                continue
            self._running[live.sequence_id] = live
            assert live.request is not None
            reserve = self.policy.admission.reserve(live.request)
            sequences.append(live.sequence(self.info.stop_ids, reserve))
        if sequences:
            self._engine.submit("resumed", sequences)

    def _decide_soon(self) -> None:
        """One decision for all that happens in this turn of the event loop."""
        if not self._deciding:
            self._deciding = True
            asyncio.get_running_loop().call_soon(self._decide)

    def _decide(self) -> None:
        self._deciding = False
        self._give_up_hopeless()
        for _ in range(DISPATCHES_A_TURN):
            if not self._waiting or not self.connected or self.held:
                return
            if self.policy.admission.stale:
                self._refresh()
            began_s = time.perf_counter()
            dispatch = self.policy.dispatch(self._clock())
            self.metrics.decided(time.perf_counter() - began_s)
            self._tell_order()
            if dispatch is None:
                return
            self._send(dispatch)
        self._decide_soon()

    def _tell_order(self) -> None:
        """Show in a metric whether the policy falls back on order of arrival, and why."""
        order = self.policy.order, "short_queue" if self._trusts else "untrusted"
        if order != self._order:
            self._order = order
            self.metrics.order(*order)

    def _refresh(self) -> None:
        """Tell admission what runs."""
        self.policy.admission.refresh([live.running() for live in self._running.values()])

    def _watch(self) -> None:
        """Look after those that wait, though nothing should happen."""
        if not self._watching and self._waiting:
            self._watching = True
            asyncio.get_running_loop().call_later(WATCH_S, self._look)

    def _look(self) -> None:
        self._watching = False
        self._give_up_hopeless()
        self._watch()

    def _give_up_hopeless(self) -> None:
        """End what cannot be answered in time, before it costs anything."""
        now_s = self._clock()
        for request in self.policy.give_up(now_s):
            live = self._waiting.pop(request.id)
            self._places.withdraw(live)
            self._end(live, "cancelled", given_up(live, now_s))

    def _send(self, dispatch: Dispatch) -> None:
        assert self._engine is not None
        assert self.info is not None
        now_s = self._clock()
        sequences = []
        for request in dispatch.requests:
            live = self._waiting.pop(request.id)
            live.dispatch, live.dispatched_s, live.policy = dispatch, now_s, self.policy.name
            live.order = "arrival" if dispatch.reason == "arrival" else "policy"
            live.kv_free_pages = self.step.kv.free if self.step else self.info.kv.free
            self._places.start(live, now_s)
            self._running[live.sequence_id] = live
            reserve = self.policy.admission.reserve(request)
            sequences.append(live.sequence(self.info.stop_ids, reserve))
        self._batches.begin(dispatch, now_s)
        self._engine.submit(dispatch.batch, sequences)
        self.metrics.dispatched(dispatch)
        log.debug(
            "batch_dispatched",
            batch=dispatch.batch,
            size=len(sequences),
            ratio=round(dispatch.ratio, 3),
            waited_s=round(dispatch.waited_s, 3),
        )

    def _end(self, live: LiveRequest, reason: str, error: LmaasError | None = None) -> None:
        now_s = self._clock()
        outcome = self._batches.settle(live.id.hex, len(live.tokens), now_s)
        if outcome is not None:
            self.policy.observe(*outcome)
        if live.dispatched_s is not None and live.request is not None:
            self._places.ended(now_s - live.dispatched_s, len(live.tokens))
            self.policy.ended(live.request, len(live.tokens), now_s)
        live.end(reason, now_s, error)
        self.metrics.ended(live)
        try:
            self._on_end(live)
        except Exception:  # one record that cannot be made must not end all other answers
            log.exception("request_not_recorded", request=str(live.id))
        self._ends += 1
        self._pressed_ends += bool(self._waiting)
        if self._ends % ENDS_BETWEEN_JUDGEMENTS == 0:
            self._judge()

    def _judge(self) -> None:
        """Tell the policy how many were preempted, and whether predictions still hold."""
        self.policy.admission.observed(self._pressed_ends, self._preemptions)
        self._pressed_ends = self._preemptions = 0
        trusted = self._trusted()
        if trusted != self._trusts:
            self._trusts = trusted
            self.policy.trust(trusted)
            self._tell_order()
            log.warning("predictions_trusted" if trusted else "predictions_distrusted")
