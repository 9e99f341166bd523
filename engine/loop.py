"""The step loop: compose and launch a step, settle the previous one, publish it."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Condition, Thread
from time import perf_counter
from typing import Final

import structlog

from engine.errors import OutOfMemory
from engine.grammar.cache import GrammarCache
from engine.grammar.compiler import CompiledGrammar
from engine.protocol import Grammar, KvState, SequenceId, SetMode, Step, TokenLogprobs, Unpin
from engine.running.runner import Runner
from engine.step.chunks import StepPlan
from engine.step.commands import Command, GrammarCompiled, Reset
from engine.step.composer import Composer
from engine.step.in_flight import InFlightStep
from engine.step.sequence import SequenceState
from engine.step.sequence_table import SequenceTable
from engine.step.stats import Stats

POOL_SHRINK: Final = 0.9  # share of the pages kept when the device runs out of memory
MIN_POOL_FRACTION: Final = 1 / 8  # of the initial pool; below it the pool is not the cause
MAX_IDLE_TURNS: Final = 8  # turns without a step or an event despite work, before the loop fails

log = structlog.get_logger()


class StepLoop(Thread):
    """The thread that owns sequences and pages; composes one step ahead of the model.

    Commands arrive by `put`; steps are passed to `emit`, which must not block. On a fatal error the
    loop calls `on_failure` and ends; the process must then be restarted.
    """

    def __init__(
        self,
        runner: Runner,
        composer: Composer,
        emit: Callable[[Step], None],
        on_failure: Callable[[BaseException], None],
        grammars: GrammarCache | None = None,
    ) -> None:
        super().__init__(name="step-loop", daemon=True)
        self.stats = Stats()
        self._grammars = grammars or GrammarCache()
        self.table = SequenceTable(composer, self._compile)
        self._memory = composer.memory
        self._runner = runner
        self._emit = emit
        self._on_failure = on_failure
        self._commands: deque[Command] = deque()
        self._wake = Condition()
        self._closing = False
        self._in_flight: InFlightStep | None = None
        self._suspects: dict[
            SequenceState, int
        ] = {}  # number of tokens at which the failed step ended
        self._number = 0
        self._idle_turns = 0  # consecutive turns without a step or an event
        self._initial_pages = self._memory.pool.size
        self._background = composer.background
        self._offloaded = composer.offloaded

    @property
    def kv(self) -> KvState:
        """The state of KV memory."""
        memory = self._memory
        return KvState(
            pages=memory.pool.size,
            free=memory.free,
            page_tokens=memory.pool.page_tokens,
            cached=memory.tree.unread,
            shared=memory.tree.shared,
            pinned=memory.tree.pinned,
            swapped=memory.host.used,
            offload_pages=self._offloaded.pool.size,
            offload_free=self._offloaded.pool.free,
        )

    @property
    def busy_s(self) -> float:
        """Seconds since the step in flight began; 0 if there is none."""
        in_flight = self._in_flight
        return in_flight.age_s if in_flight is not None else 0.0

    def put(self, *commands: Command) -> None:
        """Queue commands to execute before the next step is composed."""
        with self._wake:
            self._commands.extend(commands)
            self._wake.notify()

    def close(self) -> None:
        """End the thread after the step in flight."""
        with self._wake:
            self._closing = True
            self._wake.notify()

    def run(self) -> None:
        """Step until closed."""
        try:
            while self._wait():
                self._apply_commands()
                if self._has_work:
                    self._run_step()
        except Exception as error:
            log.exception("loop_died")
            self._on_failure(error)

    def _wait(self) -> bool:
        """Sleep until there is work; False if closed."""
        with self._wake:
            self._wake.wait_for(
                lambda: self._commands or self._closing or self._has_work or self._has_news
            )
            return not self._closing

    @property
    def _has_work(self) -> bool:
        runnable = not (self.table.paused or self.table.composer.idle)
        return self._in_flight is not None or runnable

    @property
    def _has_news(self) -> bool:
        """Whether there are ends or losses that no step has reported."""
        return bool(self.table.finished or self._memory.tree.lost)

    def _compile(self, grammar: Grammar) -> Future[CompiledGrammar]:
        """Compile a grammar; if it is not done at once, `GrammarCompiled` follows."""
        compiled = self._grammars.compile(grammar)
        if not compiled.done():
            compiled.add_done_callback(lambda _: self.put(GrammarCompiled()))
        return compiled

    def _apply_commands(self) -> None:
        released = False
        while self._commands:
            command = self._commands.popleft()
            if isinstance(command, SetMode | Reset):
                self._settle_in_flight()
            self.table.apply(command)
            released = released or isinstance(command, Unpin)
        if self._has_news or (released and not self._has_work):  # else a step shows the memory
            self._publish(None, {}, {}, [])

    def _run_step(self) -> None:
        """Launch the next step, then settle the previous one, which ran in the meantime."""
        if self._suspects:
            self._settle_in_flight()
            self._in_flight = self._launch_suspect()
            self._settle_in_flight()
            return
        published = self._number
        if self._background.limited_alone:  # one that arrives waits for one step, not for two
            self._settle_in_flight()
            self._apply_commands()
        launched = None if self.table.paused else self._launch_next()
        previous, self._in_flight = self._in_flight, launched
        if previous is not None:
            self._settle(previous)
        idle = previous is None and launched is None and self._number == published
        self._idle_turns = self._idle_turns + 1 if idle else 0
        if self._idle_turns > MAX_IDLE_TURNS:
            raise RuntimeError("no waiting sequence can run")

    def _launch_next(self) -> InFlightStep | None:
        started_s = perf_counter()
        plan = self.table.composer.compose()
        self.table.report_finished()
        self.table.forget(plan.returned)
        self.stats.preemptions += len(plan.preempted)
        self.stats.returned_batches += bool(plan.returned)
        if plan.chunks:
            return self._runner.launch(plan, started_s, previous=self._in_flight)
        self._memory.copies = plan.copies  # no step runs, so the copies are still to be made
        if plan.preempted or plan.returned or self._has_news:
            self._publish(None, {}, {}, plan.preempted, plan.returned)
        return None

    def _settle_in_flight(self) -> None:
        """Settle the step in flight, if there is one."""
        launched, self._in_flight = self._in_flight, None
        if launched is not None:
            self._settle(launched)

    def _settle(self, launched: InFlightStep) -> None:
        """Append a step's sampled tokens to their sequences and publish the step."""
        try:
            sampled = launched.result()
        except Exception as error:  # noqa: BLE001 - the loop survives a failed step
            self._recover(launched.plan, error)
            return
        tokens: dict[SequenceId, list[int]] = {}
        logprobs: dict[SequenceId, list[TokenLogprobs]] = {}
        reused: dict[SequenceId, int] = {}
        sampling = [chunk.sequence for chunk in launched.plan.chunks if chunk.samples_token]
        for sequence, sample in zip(sampling, sampled, strict=True):
            sequence.in_flight -= 1
            if not sequence.reuse_reported:
                sequence.reuse_reported = True
                reused[sequence.id] = min(sequence.reused or 0, sequence.prompt_tokens)
            token = self.table.append_token(sequence, sample)
            if token is not None:
                tokens[sequence.id] = [token]
                if sample.logprobs is not None:
                    logprobs[sequence.id] = [sample.logprobs]
        self.table.report_finished()
        self._count(launched, tokens)
        self._publish(launched, tokens, logprobs, launched.plan.preempted, reused=reused)

    def _recover(self, plan: StepPlan, error: Exception) -> None:
        """Restart the sequences of a failed step, and find the one that caused the failure."""
        launched, self._in_flight = self._in_flight, None
        if launched is not None:
            launched.drain()
        log.error("step_failed", sequences=len(plan.chunks), exc_info=error)
        reached = {c.sequence: c.start + c.length - c.sequence.padding for c in plan.chunks}
        self.table.composer.release_all()
        self.table.report_finished()
        self._memory.reset()
        if isinstance(error, OutOfMemory) and self._shrink():
            return
        self._runner.clear()
        if len(reached) > 1:
            self._suspects.update(reached)
        else:
            message = f"{type(error).__name__}: {error}".splitlines()[0]
            for failed in (sequence for sequence in reached if not sequence.done):
                self.table.end_with_error(failed, message)
        self._runner.probe(page=0)

    def _shrink(self) -> bool:
        """Return part of the pool to the device; False if the pool is already too small."""
        pages = int(self._memory.pool.size * POOL_SHRINK)
        if pages < max(1, MIN_POOL_FRACTION * self._initial_pages):
            return False
        self._memory.reset(self._runner.shrink(pages))
        self._background.cost.clear()
        self.stats.shrinks += 1
        log.warning("pool_shrunk", pages=pages)
        self.table.end_oversized()
        return True

    def _launch_suspect(self) -> InFlightStep | None:
        """A step of the next suspect alone, until it is past the point of failure."""
        sequence, reached = next(iter(self._suspects.items()))
        if sequence.done or sequence.computed >= reached:
            del self._suspects[sequence]
            self.table.composer.release_all()
            return None
        return self._runner.launch(self.table.composer.compose_one(sequence), perf_counter())

    def _count(self, launched: InFlightStep, tokens: dict[SequenceId, list[int]]) -> None:
        stats, times = self.stats, launched.times
        stats.generated_tokens += len(tokens)
        stats.extensions = self.table.composer.extensions
        stats.swaps = self._memory.host.swaps
        stats.background_held = self._background.held_rows
        if launched.work is not None:
            self._background.cost.observe(launched.work, times.model_s)
        stats.fetched_bytes += launched.fetched_bytes
        stats.steps += 1
        stats.small_steps += 4 * launched.tokens < self.table.composer.step_tokens
        stats.step_s = launched.took_s
        stats.steps_s += launched.took_s
        stats.forward_s += times.model_s
        stats.compose_s += times.compose_s
        stats.pack_s += times.pack_s
        stats.copy_s += times.copy_s
        stats.idle_s += times.idle_s
        stats.computed_tokens += launched.tokens
        self._memory.host.costs.observe(
            launched.copied, times.copy_s, launched.prefilled, times.model_s
        )

    def _publish(
        self,
        launched: InFlightStep | None,
        tokens: dict[SequenceId, list[int]],
        logprobs: dict[SequenceId, list[TokenLogprobs]],
        preempted: Sequence[SequenceState],
        returned: Sequence[SequenceState] = (),
        reused: dict[SequenceId, int] | None = None,
    ) -> None:
        finished, self.table.finished = self.table.finished, []
        composer = self.table.composer
        self.stats.ended(finished)
        self.stats.pins_made = self._memory.tree.pins_made
        self.stats.pins_lost = self._memory.tree.pins_lost
        self._number += 1
        self._emit(
            Step(
                number=self._number,
                kv=self.kv,
                tokens=tokens,
                logprobs=logprobs,
                finished=finished,
                preempted=[sequence.id for sequence in preempted],
                returned=[sequence.id for sequence in returned],
                reused=reused or {},
                unpinned=self._memory.take_unpinned(),
                running=len(composer.running)
                + len(composer.preempted)
                + len(self._offloaded.running),
                suspended=len(composer.preempted),
                waiting=len(composer.waiting) + len(self._offloaded.waiting),
                background_rows=self._background.most_rows,
                computed=launched.tokens if launched else 0,
                took_s=launched.took_s if launched else 0.0,
                times=launched.times if launched else None,
                work=launched.work if launched else None,
                fetched_bytes=launched.fetched_bytes if launched else 0,
                host_work=launched.host_work if launched else None,
                swap_token_s=self._memory.host.page_copy_s / self._memory.pool.page_tokens,
            )
        )
