"""Masks of a step: a sequence whose masks take too long is ended, and no other."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.grammar.automaton import MAX_SLOW_MASKS, TOO_SLOW, Automaton
from engine.grammar.compiler import CompiledGrammar, Compiler
from engine.protocol import Grammar
from engine.running.grammar_thread import GrammarThread
from engine.sampling import GrammarRow, StepGrammars

END, VOCABULARY = 96, 97


@pytest.fixture(scope="module")
def compiled(tokenizer_file: Path) -> CompiledGrammar:
    return Compiler(tokenizer_file, VOCABULARY, [END]).compile(Grammar("regex", "[0-9]{3,9}"))


@pytest.fixture
def automata(compiled: CompiledGrammar) -> list[Automaton]:
    return [Automaton(compiled, [END]) for _ in range(2)]


@pytest.fixture(params=[float("inf"), -1.0], ids=["none slow", "all slow"])
def thread(request: pytest.FixtureRequest) -> Iterator[GrammarThread]:
    thread = GrammarThread(slow_s=request.param)
    yield thread
    thread.close()


def filled(thread: GrammarThread, automata: list[Automaton]) -> list[int]:
    """The number of tokens that may follow, of each."""
    rows = tuple(GrammarRow(row, each, None) for row, each in enumerate(automata))
    words = -(-automata[0].width // 32)
    masks = torch.full((len(rows), words), -1, dtype=torch.int32)
    thread.fill(StepGrammars(rows, masks)).result()
    bits = np.unpackbits(masks.numpy().view(np.uint8), axis=1)
    return [int(count) for count in bits.sum(axis=1)]


@pytest.mark.parametrize("thread", [float("inf")], indirect=True)
def test_fast_masks_end_nothing(thread: GrammarThread, automata: list[Automaton]) -> None:
    for _ in range(MAX_SLOW_MASKS + 2):
        assert filled(thread, automata) == [11, 11]  # the digits, and two zeros
    assert [each.failure for each in automata] == [None, None]


@pytest.mark.parametrize("thread", [-1.0], indirect=True)
def test_sequence_with_several_slow_masks_is_ended(
    thread: GrammarThread, automata: list[Automaton]
) -> None:
    slow, new = automata
    assert filled(thread, [slow]) == [11]  # from now on masks are timed
    for _ in range(MAX_SLOW_MASKS - 1):
        assert filled(thread, [slow]) == [11]
    assert filled(thread, [slow, new]) == [0, 11]
    assert (slow.failure, new.failure) == (TOO_SLOW, None)
    assert filled(thread, [slow]) == [0]
    slow.restart([])  # after a preemption it is not tried again
    assert slow.failure == TOO_SLOW
