"""Batches that wait until the grammars of their sequences are compiled."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import NamedTuple

from engine.errors import GrammarRefused
from engine.grammar.automaton import Automaton
from engine.grammar.compiler import CompiledGrammar
from engine.protocol import Grammar
from engine.step.sequence import SequenceState


class CompilingBatch(NamedTuple):
    """Sequences submitted together, and the grammars that some of them have."""

    sequences: list[SequenceState]
    grammars: dict[str, Future[CompiledGrammar]]

    @property
    def compiled(self) -> bool:
        """Whether no grammar is still being compiled."""
        return all(grammar.done() for grammar in self.grammars.values())


class CompilingBatches:
    """All such batches, in the order of their submission."""

    def __init__(self, compile_grammar: Callable[[Grammar], Future[CompiledGrammar]]) -> None:
        self._compile = compile_grammar
        self._batches: list[CompilingBatch] = []

    def add(self, sequences: list[SequenceState]) -> None:
        """Start to compile the grammars of a batch."""
        grammars = {s.id: self._compile(s.grammar) for s in sequences if s.grammar is not None}
        self._batches.append(CompilingBatch(sequences, grammars))

    def take_compiled(self) -> Iterator[CompilingBatch]:
        """Remove and return the batches whose grammars are compiled."""
        batches, self._batches = self._batches, []
        for batch in batches:
            if batch.compiled:
                yield batch
            else:
                self._batches.append(batch)

    def clear(self) -> None:
        """Forget all batches."""
        self._batches.clear()


def start_automata(batch: CompilingBatch) -> Iterable[tuple[SequenceState, str]]:
    """Give the sequences of a compiled batch their automata; those refused, with the reason."""
    for sequence in batch.sequences:
        grammar = batch.grammars.get(sequence.id)
        if grammar is None or sequence.done:
            continue
        try:
            sequence.automaton = Automaton(grammar.result(), sequence.stop_ids)
        except GrammarRefused as error:
            yield sequence, f"the grammar cannot be compiled: {error}"
