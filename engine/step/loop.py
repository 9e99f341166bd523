"""One step after another: compose, launch, settle the one before, tell."""

from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from time import perf_counter
from typing import Final

import structlog

from engine.errors import OutOfMemory
from engine.protocol import KvState, SequenceId, SetMode, Step, TokenLogprobs
from engine.running.runner import Runner
from engine.service.stats import Stats
from engine.step.commands import Forget, Order
from engine.step.composer import Composer, Plan
from engine.step.in_flight import Flight
from engine.step.sequence import LiveSequence
from engine.step.sequence_table import Roster

SHRINK: Final = 0.9  # of the pages are kept when the device runs out of memory
SMALLEST: Final = 1 / 8  # of the first pool: below that it is not the pool that takes too much
STILL: Final = 8  # turns without a step while there is work: it cannot go on

log = structlog.get_logger()


class StepLoop(Thread):
    """The thread that owns sequences and pages, one step ahead of the model.

    Orders come in through `put`, steps go out through `emit`, which must not block. When the loop
    cannot go on it calls `died` and ends; the process is then of no use.
    """

    def __init__(
        self,
        runner: Runner,
        composer: Composer,
        emit: Callable[[Step], None],
        died: Callable[[BaseException], None],
    ) -> None:
        super().__init__(name="step-loop", daemon=True)
        self.stats = Stats()
        self.roster = Roster(composer)
        self._memory = composer.memory
        self._runner = runner
        self._emit = emit
        self._died = died
        self._orders: deque[Order] = deque()
        self._wake = Condition()
        self._closing = False
        self._flying: Flight | None = None
        self._suspects: dict[LiveSequence, int] = {}  # and how far each had come
        self._number = 0
        self._still = 0  # turns in a row without a step
        self._first_pool = self._memory.pool.size

    @property
    def kv(self) -> KvState:
        """The state of KV memory."""
        memory = self._memory
        return KvState(
            pages=memory.pool.size,
            free=memory.free,
            page_tokens=memory.pool.page_tokens,
            cached=memory.tree.idle,
            shared=memory.tree.shared,
            swapped=memory.host.used,
        )

    @property
    def busy_s(self) -> float:
        """For how long the step under way has been running; 0 where none is."""
        flying = self._flying
        return flying.age_s if flying is not None else 0.0

    def put(self, *orders: Order) -> None:
        """Orders to carry out before the next step is composed."""
        with self._wake:
            self._orders.extend(orders)
            self._wake.notify()

    def close(self) -> None:
        """End the thread after the step under way."""
        with self._wake:
            self._closing = True
            self._wake.notify()

    def run(self) -> None:
        """Step until closed."""
        try:
            while self._wait():
                self._obey()
                if self._stirring:
                    self._turn()
        except Exception as error:
            log.exception("loop_died")
            self._died(error)

    def _wait(self) -> bool:
        """Sleep until there is something to do; False when closed."""
        with self._wake:
            self._wake.wait_for(lambda: self._orders or self._closing or self._stirring)
            return not self._closing

    @property
    def _stirring(self) -> bool:
        at_work = not (self.roster.paused or self.roster.composer.idle)
        return self._flying is not None or at_work

    def _obey(self) -> None:
        while self._orders:
            order = self._orders.popleft()
            if isinstance(order, SetMode | Forget):
                self._land()
            self.roster.obey(order)
        if self.roster.finished:
            self._tell(None, {}, {}, [])

    def _turn(self) -> None:
        """Launch the next step, then settle the one before, which has been running meanwhile."""
        if self._suspects:
            self._land()
            self._flying = self._launch_suspect()
            self._land()
            return
        flight = None if self.roster.paused else self._launch_next()
        earlier, self._flying = self._flying, flight
        if earlier is not None:
            self._settle(earlier)
        self._still = self._still + 1 if earlier is None and flight is None else 0
        if self._still > STILL:
            raise RuntimeError("nothing of what waits can run")

    def _launch_next(self) -> Flight | None:
        started_s = perf_counter()
        plan = self.roster.composer.compose()
        self.roster.dismiss()
        self.stats.preemptions += len(plan.preempted)
        if plan.chunks:
            return self._runner.launch(plan, started_s, behind=self._flying)
        self._memory.copies = plan.copies  # nothing ran, so nothing was moved
        if plan.preempted or self.roster.finished:
            self._tell(None, {}, {}, plan.preempted)
        return None

    def _land(self) -> None:
        """Settle the step under way, if there is one."""
        flight, self._flying = self._flying, None
        if flight is not None:
            self._settle(flight)

    def _settle(self, flight: Flight) -> None:
        """Give each sequence the token that a step drew for it, and tell."""
        try:
            outcomes = flight.land()
        except Exception as error:  # noqa: BLE001 - a step may fail, the loop must live
            self._recover(flight.plan, error)
            return
        tokens: dict[SequenceId, list[int]] = {}
        logprobs: dict[SequenceId, list[TokenLogprobs]] = {}
        drawing = [chunk.sequence for chunk in flight.plan.chunks if chunk.completes]
        for sequence, outcome in zip(drawing, outcomes, strict=True):
            sequence.ahead -= 1
            token = self.roster.take(sequence, outcome)
            if token is not None:
                tokens[sequence.id] = [token]
                if outcome.logprobs is not None:
                    logprobs[sequence.id] = [outcome.logprobs]
        self.roster.dismiss()
        self._count(flight, tokens)
        self._tell(flight, tokens, logprobs, flight.plan.preempted)

    def _recover(self, plan: Plan, error: Exception) -> None:
        """After a failed step: begin anew with what it held, and find out who made it fail."""
        flight, self._flying = self._flying, None
        if flight is not None:
            flight.drop()
        log.error("step_failed", sequences=len(plan.chunks), exc_info=error)
        reached = {c.sequence: c.start + c.length - c.sequence.padding for c in plan.chunks}
        self.roster.composer.evacuate()
        self.roster.dismiss()
        self._memory.reset()
        if isinstance(error, OutOfMemory) and self._shrink():
            return
        self._runner.clear()
        if len(reached) > 1:
            self._suspects.update(reached)
        else:
            message = f"{type(error).__name__}: {error}".splitlines()[0]
            for culprit in (sequence for sequence in reached if not sequence.done):
                self.roster.end_with_error(culprit, message)
        self._runner.probe(page=0)

    def _shrink(self) -> bool:
        """Give part of the pool back to the device; False where that is no way out any more."""
        pages = int(self._memory.pool.size * SHRINK)
        if pages < max(1, SMALLEST * self._first_pool):
            return False
        self._memory.reset(self._runner.shrink(pages))
        self.stats.shrinks += 1
        log.warning("pool_shrunk", pages=pages)
        self.roster.end_oversized()
        return True

    def _launch_suspect(self) -> Flight | None:
        """A step of the next sequence under suspicion, alone, until it is past where one failed."""
        sequence, reached = next(iter(self._suspects.items()))
        if sequence.done or sequence.computed >= reached:
            del self._suspects[sequence]
            self.roster.composer.evacuate()
            return None
        return self._runner.launch(self.roster.composer.compose_one(sequence), perf_counter())

    def _count(self, flight: Flight, tokens: dict[SequenceId, list[int]]) -> None:
        stats, times = self.stats, flight.times
        stats.generated_tokens += len(tokens)
        stats.extensions = self.roster.composer.extensions
        stats.steps += 1
        stats.step_s = flight.took_s
        stats.steps_s += flight.took_s
        stats.forward_s += times.model_s
        stats.compose_s += times.compose_s
        stats.pack_s += times.pack_s
        stats.copy_s += times.copy_s
        stats.idle_s += times.idle_s
        stats.computed_tokens += flight.tokens
        self._memory.host.costs.learn(flight.copied, times.copy_s, flight.prefilled, times.model_s)

    def _tell(
        self,
        flight: Flight | None,
        tokens: dict[SequenceId, list[int]],
        logprobs: dict[SequenceId, list[TokenLogprobs]],
        preempted: list[LiveSequence],
    ) -> None:
        finished, self.roster.finished = self.roster.finished, []
        composer = self.roster.composer
        self.stats.ended(finished)
        self._number += 1
        self._emit(
            Step(
                number=self._number,
                kv=self.kv,
                tokens=tokens,
                logprobs=logprobs,
                finished=finished,
                preempted=[sequence.id for sequence in preempted],
                running=len(composer.running) + len(composer.preempted),
                suspended=len(composer.preempted),
                waiting=len(composer.waiting),
                computed=flight.tokens if flight else 0,
                took_s=flight.took_s if flight else 0.0,
                times=flight.times if flight else None,
            )
        )
