"""Compiles grammars for a tokenizer, by llguidance."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark

from engine.errors import GrammarRefused
from engine.protocol import Grammar

LIMITS: Final = LLParserLimits(
    initial_lexer_fuel=2_000_000,
    step_lexer_fuel=100_000,
    max_lexer_states=20_000,  # of 1 to 2 kB
    max_grammar_size=200_000,
    verbose_errors=False,
)
LARK_START: Final = re.compile(r"^\s*start\s*:(?!:=)", re.MULTILINE)
VERBOSE_OFF: Final = "<non-verbose/>"  # at the end of the library's messages
MAX_REASON: Final = 500  # characters of the library's message


class CompiledGrammar(NamedTuple):
    """A matcher at the start of a grammar's texts.

    Its masks cover `width` token ids. It allows the token `eos` where the text may end.
    """

    matcher: LLMatcher
    width: int
    eos: int


class Compiler:
    """Compiles grammars for the tokens of one model."""

    def __init__(self, tokenizer: Path, vocabulary: int, stop_ids: Sequence[int]) -> None:
        """Read a `tokenizer.json`. GrammarRefused if the library does not know its kind.

        `vocabulary` is the model's, which may be larger than the tokenizer's.
        """
        try:
            self._tokenizer = LLTokenizer(
                str(tokenizer), n_vocab=vocabulary, eos_token=stop_ids[0] if stop_ids else None
            )
        except (ValueError, OSError) as error:
            raise GrammarRefused(f"this model's tokenizer takes no grammars: {error}") from error

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """GrammarRefused with the reason."""
        source = _library_form(grammar)
        matcher = LLMatcher(self._tokenizer, source, log_level=0, limits=LIMITS)
        if matcher.is_error():
            raise GrammarRefused(short_reason(matcher.get_error()))
        return CompiledGrammar(matcher, self._tokenizer.vocab_size, self._tokenizer.eos_token)


def _library_form(grammar: Grammar) -> str:
    """A grammar in the library's own form. GrammarRefused if it cannot be read."""
    try:
        match grammar.kind:
            case "json_schema":
                return LLMatcher.grammar_from_json_schema(
                    grammar.source,
                    overrides={"lenient": False, "coerce_one_of": False},  # else it is refused
                )
            case "regex":
                return LLMatcher.grammar_from_regex(grammar.source)
            case "lark":
                gbnf = "::=" in grammar.source and not LARK_START.search(grammar.source)
                lark = gbnf_to_lark(grammar.source) if gbnf else grammar.source
                return json.dumps({"grammars": [{"lark_grammar": lark}]})
    except (ValueError, RecursionError, GbnfToLarkError) as error:
        raise GrammarRefused(short_reason(str(error))) from error


def short_reason(reason: str) -> str:
    """The library's message in one line of bounded length."""
    line = " ".join(reason.removesuffix(VERBOSE_OFF).split())
    return line if len(line) <= MAX_REASON else f"{line[:MAX_REASON]}…"
