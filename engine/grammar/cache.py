"""Keeps compiled grammars: clients send the same ones again and again."""

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Final

from engine.errors import GrammarRefused
from engine.grammar.compiler import CompiledGrammar, Compiler
from engine.protocol import Grammar

MAX_KEPT: Final = 64
# Of their sources: a compiled grammar takes 0.1 MB, and 80 bytes for each character of a schema.
MAX_KEPT_CHARACTERS: Final = 1 << 20


def no_compiler() -> Compiler:
    """GrammarRefused: there is no tokenizer to compile for."""
    raise GrammarRefused("the model's folder has no tokenizer.json")


class GrammarCache:
    """Compiles in a thread of its own and keeps the grammars used last; used by one thread.

    At most `kept` grammars, and of more than one `kept_characters` of their sources. The compiler
    reads the tokenizer when the first grammar comes.
    """

    def __init__(
        self,
        make_compiler: Callable[[], Compiler] = no_compiler,
        kept: int = MAX_KEPT,
        kept_characters: int = MAX_KEPT_CHARACTERS,
    ) -> None:
        self._compiler = cache(make_compiler)
        self._kept = kept
        self._kept_characters = kept_characters
        self._characters = 0
        self._grammars: OrderedDict[Grammar, Future[CompiledGrammar]] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, "grammars")

    def compile(self, grammar: Grammar) -> Future[CompiledGrammar]:
        """The compiled grammar, at once if it is kept; raises GrammarRefused with the reason."""
        compiled = self._grammars.get(grammar)
        if compiled is None:
            compiled = self._grammars[grammar] = self._thread.submit(self._compile, grammar)
            self._characters += len(grammar.source)
        self._grammars.move_to_end(grammar)
        while self._full and len(self._grammars) > 1:
            oldest, _ = self._grammars.popitem(last=False)
            self._characters -= len(oldest.source)
        return compiled

    @property
    def _full(self) -> bool:
        return len(self._grammars) > self._kept or self._characters > self._kept_characters

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _compile(self, grammar: Grammar) -> CompiledGrammar:
        return self._compiler().compile(grammar)
