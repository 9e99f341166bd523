"""The grammars that the engine keeps: those used last, bounded in number and size."""

from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from engine.grammar.cache import GrammarCache
from engine.grammar.compiler import CompiledGrammar, Compiler
from engine.protocol import Grammar

KEPT, CHARACTERS = 4, 20


class Counting:
    """Notes the sources that it is asked to compile."""

    def __init__(self) -> None:
        self.compiled: list[str] = []

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        self.compiled.append(grammar.source)
        return cast("CompiledGrammar", grammar)


SOURCES = ["a" * size for size in (1, 2, 3, 5, 8, 13, 25)]


@given(st.lists(st.sampled_from(SOURCES), max_size=40))
def test_grammars_used_last_are_kept_up_to_the_number_and_the_size(used: list[str]) -> None:
    compiler = Counting()
    cache = GrammarCache(lambda: cast("Compiler", compiler), KEPT, CHARACTERS)
    kept: list[str] = []  # the one used last at the end
    expected = []
    try:
        for source in used:
            cache.compile(Grammar("regex", source)).result()
            if source in kept:
                kept.remove(source)
            else:
                expected.append(source)
            kept.append(source)
            while len(kept) > 1 and (len(kept) > KEPT or len("".join(kept)) > CHARACTERS):
                del kept[0]
        assert compiler.compiled == expected
    finally:
        cache.close()
