"""The table of all present sequences: starts and ends them."""

from collections.abc import Callable
from collections.abc import Sequence as Many
from concurrent.futures import Future
from typing import Final

import structlog

from engine.grammar.compiler import CompiledGrammar
from engine.protocol import (
    Finish,
    FinishReason,
    Grammar,
    Mode,
    Pause,
    Pin,
    Preempt,
    Resume,
    Revise,
    Sequence,
    SequenceId,
    SetMode,
    Unpin,
)
from engine.sampling import SampledToken
from engine.step.commands import (
    Audit,
    Command,
    GrammarCompiled,
    RefusePins,
    Reset,
    Start,
    Stop,
)
from engine.step.compiling import CompilingBatches, start_automata
from engine.step.composer import Composer
from engine.step.lockstep import LockstepComposer
from engine.step.memory import KvMemory
from engine.step.sequence import SequenceState, new_sequence

log = structlog.get_logger()

NOT_IN_LOCK_STEP: Final = "memory: a sequence in host memory does not run in lock step"


class SequenceTable:
    """All sequences by id, and their composer; executes commands.

    `finished` collects the ends of sequences that are not published yet. Sequences with a grammar
    wait for `compile_grammar`, with the others of their batch, before the composer gets them; each
    grammar whose result comes later is followed by a `GrammarCompiled`.
    """

    def __init__(
        self,
        composer: Composer,
        compile_grammar: Callable[[Grammar], Future[CompiledGrammar]],
    ) -> None:
        self.composer: Composer | LockstepComposer = composer
        self._continuous = composer
        self.memory: KvMemory = composer.memory
        self.paused = False
        self.finished: list[Finish] = []
        self._sequences: dict[SequenceId, SequenceState] = {}
        self._finishes: dict[
            SequenceId, Finish
        ] = {}  # of ended sequences that are still in a batch
        self._arrivals = 0
        self._compiling = CompilingBatches(compile_grammar)

    @property
    def mode(self) -> Mode:
        """The current batching mode."""
        return "lockstep" if isinstance(self.composer, LockstepComposer) else "continuous"

    def apply(self, command: Command) -> None:  # noqa: C901, PLR0912 - one case per command
        """Execute a command; none may change the mode while a step is in flight."""
        match command:
            case Start(sequences, pins):
                for pin in pins:
                    self._pin(pin)
                self._start(sequences)
            case Stop(ids, message):
                self._stop(ids, message)
            case Revise(remaining, preempt_first):
                self._revise(remaining, preempt_first)
            case Preempt(ids):
                self.composer.preempt([self._sequences[i] for i in ids if i in self._sequences])
            case Pin():
                self._pin(command)
            case RefusePins(names):
                for name in names:
                    self.memory.tree.lose(name)
            case Unpin(names):
                self._unpin(names)
            case Pause() | Resume():
                self.paused = isinstance(command, Pause)
            case SetMode(mode):
                self._change_mode(mode)
            case Reset():
                self._reset()
            case GrammarCompiled():
                self._admit_compiled()
            case Audit(answer):
                answer(self._audit())

    def append_token(self, sequence: SequenceState, sample: SampledToken) -> int | None:
        """Append a sampled token; None if it is not to be published."""
        token = sample.token
        if sequence.done:  # it was removed, or its lock-step batch is not finished
            sequence.tokens.append(token or 0)
            return None
        if token is None:
            memory = self._continuous.offloaded if sequence.on_host else self.memory
            memory.release_invalid(sequence)
            failure = sequence.automaton.failure if sequence.automaton else None
            self.end_with_error(sequence, failure or sample.reason)
            return None
        sequence.tokens.append(token)
        if token in sequence.stop_ids:
            self._end(sequence, "stop", token)
            return None
        if sample.complete:
            self._end(sequence, "stop")
        elif sequence.generated == sequence.max_tokens:
            self._end(sequence, "length")
        return token

    def report_finished(self) -> None:
        """Move the sequences that the composer finished to `finished`."""
        for sequence in self.composer.take_finished():
            self._finish(sequence, self._finishes.pop(sequence.id))

    def end_with_error(self, sequence: SequenceState, message: str) -> None:
        """End a sequence with an error."""
        self.composer.remove(sequence)
        self._finish(sequence, Finish(sequence.id, "error", message))

    def forget(self, sequences: Many[SequenceState]) -> None:
        """Remove sequences that the composer returned; the gateway submits them again."""
        for sequence in sequences:
            sequence.done = True
            del self._sequences[sequence.id]

    def end_oversized(self) -> None:
        """End sequences that no longer fit the pool after it shrank."""
        for sequence in list(self._sequences.values()):
            tokens = sequence.prompt_tokens + sequence.max_tokens
            pool = self._continuous.offloaded.pool if sequence.on_host else self.memory.pool
            if pool.pages_for(tokens) > pool.size:
                message = f"{tokens} tokens do not fit the KV memory, which had to shrink"
                self.end_with_error(sequence, message)

    def _start(self, sequences: list[Sequence]) -> None:
        admitted = []
        for sequence in sequences:
            self._arrivals += 1
            state = new_sequence(sequence, self._arrivals)
            self._sequences[state.id] = state
            if state.at_max_tokens:
                self._finish(state, Finish(state.id, "length"))
            elif state.on_host and self.mode == "lockstep":
                self._finish(state, Finish(state.id, "error", NOT_IN_LOCK_STEP))
            else:
                admitted.append(state)
        if admitted:
            self._compiling.add(admitted)
            self._admit_compiled()
        self.end_oversized()

    def _admit_compiled(self) -> None:
        """Pass the batches whose grammars are compiled to the composer."""
        for batch in self._compiling.take_compiled():
            for sequence, reason in start_automata(batch):
                self._finish(sequence, Finish(sequence.id, "error", reason))
            admitted = [sequence for sequence in batch.sequences if not sequence.done]
            if admitted:
                self.composer.add(admitted)

    def _pin(self, pin: Pin) -> None:
        self.memory.pin(pin)
        self.composer.memory_freed()  # it may have replaced another

    def _stop(self, ids: list[SequenceId] | None, message: str | None) -> None:
        for name in list(self._sequences) if ids is None else ids:
            self._cancel(name, message)
        if ids is None:
            self.memory.tree.lose_all()
            self.composer.memory_freed()

    def _cancel(self, name: SequenceId, message: str | None) -> None:
        sequence = self._sequences.get(name)
        if sequence is not None:
            self.composer.remove(sequence)
            cancelled = Finish(name, "cancelled", message)
            self._finish(sequence, self._finishes.pop(name, cancelled))
            self.report_finished()

    def _revise(
        self, remaining: dict[SequenceId, int], preempt_first: dict[SequenceId, int]
    ) -> None:
        for name, tokens in remaining.items():
            if name in self._sequences:
                self._sequences[name].expected = self._sequences[name].generated + tokens
        for name, value in preempt_first.items():
            if name in self._sequences:
                self._sequences[name].preempt_first = value
        if preempt_first:
            self.composer.order_changed()

    def _unpin(self, names: list[str]) -> None:
        for name in names:
            self.memory.tree.unpin(name)
        self.composer.memory_freed()

    def _change_mode(self, mode: Mode) -> None:
        """Move all sequences to the other composer, which recomputes them."""
        if mode == self.mode:
            return
        composer = (
            LockstepComposer(self.memory, self.composer.step_tokens)
            if mode == "lockstep"
            else self._continuous
        )
        sequences = self.composer.hand_over()
        self.report_finished()
        for sequence in [sequence for sequence in sequences if sequence.on_host]:
            self._finish(sequence, Finish(sequence.id, "error", NOT_IN_LOCK_STEP))
        sequences = [sequence for sequence in sequences if not sequence.on_host]
        if sequences:
            composer.add(sequences)
        self.composer = composer
        log.info("mode_changed", mode=mode, sequences=len(sequences))

    def _audit(self) -> str | None:
        try:
            self.composer.check()
        except AssertionError as error:
            return str(error) or "an invariant of the queues is violated"
        return None

    def _reset(self) -> None:
        for sequence in self._sequences.values():
            sequence.done = True
            self.composer.remove(sequence)
        self.composer.take_finished()
        for collection in (self._sequences, self._finishes, self.finished):
            collection.clear()
        self._compiling.clear()
        self.memory.tree.unpin_all()
        self.paused = False
        self._change_mode("continuous")

    def _end(
        self, sequence: SequenceState, reason: FinishReason, stop_id: int | None = None
    ) -> None:
        sequence.done = True
        self._finishes[sequence.id] = Finish(sequence.id, reason, stop_id=stop_id)
        self.composer.ended(sequence)

    def _finish(self, sequence: SequenceState, finish: Finish) -> None:
        sequence.done = True
        del self._sequences[sequence.id]
        self.finished.append(finish)
