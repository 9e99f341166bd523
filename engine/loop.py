"""One step after another: compose, forward, sample, emit."""

from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from time import perf_counter

import structlog

from engine.composer import Composer, Plan
from engine.orders import Forget, Order, Start, Stop
from engine.protocol import Finish, FinishReason, KvState, Revise, Sequence, SequenceId, Step
from engine.runner import Runner
from engine.sequence import LiveSequence, live
from engine.stats import Stats

log = structlog.get_logger()


class StepLoop(Thread):
    """The thread that owns sequences, pages and model.

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
        self.composer = composer
        self._runner = runner
        self._emit = emit
        self._died = died
        self._orders: deque[Order] = deque()
        self._wake = Condition()
        self._closing = False
        self._sequences: dict[SequenceId, LiveSequence] = {}
        self._arrivals = 0
        self._number = 0
        self._finished: list[Finish] = []

    @property
    def kv(self) -> KvState:
        """The state of KV memory."""
        pool = self.composer.pool
        return KvState(pages=pool.size, free=pool.free, page_tokens=pool.page_tokens)

    def put(self, *orders: Order) -> None:
        """Orders to carry out before the next step."""
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
                self._step()
        except Exception as error:
            log.exception("loop_died")
            self._died(error)

    def _wait(self) -> bool:
        """Sleep until there is something to do; False when closed."""
        with self._wake:
            self._wake.wait_for(lambda: self._orders or self._closing or not self.composer.idle)
            return not self._closing

    def _obey(self) -> None:
        while self._orders:
            match self._orders.popleft():
                case Start(sequences):
                    for sequence in sequences:
                        self._take_on(sequence)
                case Stop(ids, message):
                    for name in list(self._sequences) if ids is None else ids:
                        if name in self._sequences:
                            self._finish(self._sequences[name], "cancelled", message)
                case Revise(remaining):
                    self._revise(remaining)
                case Forget():
                    self.composer.clear()
                    self._sequences.clear()

    def _take_on(self, sequence: Sequence) -> None:
        self._arrivals += 1
        newcomer = live(sequence, self._arrivals)
        self._sequences[newcomer.id] = newcomer
        self.composer.add(newcomer)
        if newcomer.generated == newcomer.max_tokens:
            self._finish(newcomer, "length")

    def _revise(self, remaining: dict[SequenceId, int]) -> None:
        for name, tokens in remaining.items():
            if name in self._sequences:
                self._sequences[name].expected = self._sequences[name].generated + tokens

    def _step(self) -> None:
        """One step, and the event that tells of it; no event when there is nothing to tell."""
        started = perf_counter()
        plan = self.composer.compose()
        tokens = self._advance(plan) if plan.chunks else {}
        self._count(plan, tokens, perf_counter() - started)
        if plan.chunks or plan.preempted or self._finished:
            self._tell(plan, tokens)

    def _advance(self, plan: Plan) -> dict[SequenceId, list[int]]:
        """Run a plan; the new token of each sequence that got one."""
        started = perf_counter()
        try:
            sampled = self._runner.run(plan.chunks)
        except Exception as error:  # noqa: BLE001 - a step may fail, the loop must live
            self._fail(plan, error)
            return {}
        self.stats.forward_s += perf_counter() - started
        for chunk in plan.chunks:
            chunk.sequence.computed += chunk.length
        completed = [chunk.sequence for chunk in plan.chunks if not chunk.sequence.pending]
        tokens = {}
        for sequence, token in zip(completed, sampled, strict=True):
            if token is None:
                self._reject(sequence)
            elif self._settle(sequence, token):
                tokens[sequence.id] = [token]
        return tokens

    def _settle(self, sequence: LiveSequence, token: int) -> bool:
        """Give a sequence its next token; False where that is a stop id and ends it."""
        if token in sequence.stop_ids:
            self._finish(sequence, "stop")
            return False
        sequence.tokens.append(token)
        if sequence.generated == sequence.max_tokens:
            self._finish(sequence, "length")
        return True

    def _reject(self, sequence: LiveSequence) -> None:
        """End a sequence whose scores are no numbers, and keep them from its pages' next owner."""
        self._runner.scrub(sequence.pages)
        self._finish(sequence, "error", "the model's scores are not finite numbers")

    def _fail(self, plan: Plan, error: Exception) -> None:
        """End a failed step's sequences; raises if the model does not even run one token now."""
        log.error("step_failed", sequences=len(plan.chunks), exc_info=error)
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        for chunk in plan.chunks:
            self._runner.scrub(chunk.sequence.pages)
            self._finish(chunk.sequence, "error", message)
        page = self.composer.pool.take(1)
        self._runner.probe(page[0])
        self.composer.pool.give_back(page)

    def _finish(
        self, sequence: LiveSequence, reason: FinishReason, message: str | None = None
    ) -> None:
        self.composer.remove(sequence)
        del self._sequences[sequence.id]
        self._finished.append(Finish(id=sequence.id, reason=reason, message=message))

    def _count(self, plan: Plan, tokens: dict[SequenceId, list[int]], took_s: float) -> None:
        stats = self.stats
        stats.generated_tokens += len(tokens)
        stats.preemptions += len(plan.preempted)
        stats.extensions = self.composer.extensions
        stats.finished += sum(finish.reason in {"stop", "length"} for finish in self._finished)
        stats.failed += sum(finish.reason == "error" for finish in self._finished)
        stats.cancelled += sum(finish.reason == "cancelled" for finish in self._finished)
        if plan.chunks:
            stats.steps += 1
            stats.step_s = took_s
            stats.steps_s += took_s
            stats.computed_tokens += sum(chunk.length for chunk in plan.chunks)

    def _tell(self, plan: Plan, tokens: dict[SequenceId, list[int]]) -> None:
        self._number += 1
        finished, self._finished = self._finished, []
        self._emit(
            Step(
                number=self._number,
                kv=self.kv,
                tokens=tokens,
                finished=finished,
                preempted=[sequence.id for sequence in plan.preempted],
                running=len(self.composer.running) + len(self.composer.preempted),
                waiting=len(self.composer.waiting),
                took_s=self.stats.step_s if plan.chunks else 0.0,
            )
        )
