"""The times of compiling a grammar and of its masks, on one core."""

import json
from statistics import fmean, quantiles
from time import perf_counter
from typing import Any, Final

import numpy as np
from msgspec import Struct
from tokenizers import Tokenizer

from engine.grammar.compiler import Compiler
from engine.protocol import Grammar
from gateway.generation.grammar.schemas import choice_grammar, json_grammar

ROUNDS: Final = 30
PERSON: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 60},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "languages": {"type": "array", "items": {"enum": ["en", "fr", "de"]}, "maxItems": 5},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "zip": {"pattern": "^[0-9]{5}$"}},
            "required": ["street", "zip"],
            "additionalProperties": False,
        },
    },
    "required": ["name", "age", "languages", "address"],
    "additionalProperties": False,
}
ADA: Final = {
    "name": "Ada Lovelace",
    "age": 36,
    "languages": ["en", "fr"],
    "address": {"street": "12 St James's Square, next to the library", "zip": "12345"},
}
WIDE: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {f"field_{n}": {"type": ["string", "null"]} for n in range(200)},
    "required": [f"field_{n}" for n in range(0, 200, 2)],
    "additionalProperties": False,
}
SUM: Final = """start: sum
sum: product (("+" | "-") product)*
product: factor (("*" | "/") factor)*
factor: /[0-9]+(\\.[0-9]+)?/ | "(" sum ")"
"""
# A grammar, and a text of it.
GRAMMARS: Final[dict[str, tuple[Grammar, str]]] = {
    "object of 4 fields": (json_grammar(PERSON), json.dumps(ADA)),
    "object of 200 fields": (
        json_grammar(WIDE),
        json.dumps({name: f"the value of {name}" for name in WIDE["required"]}),
    ),
    "any object": (json_grammar({"type": "object"}), json.dumps(ADA, indent=2)),
    "choice of 50": (choice_grammar([f"option number {n}" for n in range(50)]), "option number 7"),
    "regular expression": (
        Grammar("regex", r"\d{4}-\d{2}-\d{2}: .{1,80}"),
        "2026-11-29: a fine day",
    ),
    "arithmetic, in Lark": (Grammar("lark", SUM), "(12.5+3)*((4-1)/(7+2*(3-1)))"),
}


class Times(Struct, frozen=True):
    """Seconds, of a grammar; `mask_s` and `follow_s` of each token."""

    compile_s: list[float]
    copy_s: float
    mask_s: list[float]
    follow_s: list[float]

    @property
    def slow_mask_us(self) -> float:
        """The 99th percentile of a mask, in microseconds."""
        return 1e6 * quantiles(self.mask_s, n=100, method="inclusive")[98]

    def row(self, name: str) -> dict[str, object]:
        """Its row in the table."""
        return {
            "grammar": name,
            "compile ms": 1e3 * fmean(self.compile_s),
            "kept µs": 1e6 * self.copy_s,
            "mask µs": 1e6 * fmean(self.mask_s),
            "mask p99 µs": self.slow_mask_us,
            "follow µs": 1e6 * fmean(self.follow_s),
        }


def measured(grammar: Grammar, text: str, compiler: Compiler, tokenizer: Tokenizer) -> Times:
    """The times of a grammar, `ROUNDS` texts long; a first text fills the library's caches."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    compile_s, mask_s, follow_s = list[float](), list[float](), list[float]()
    for _ in range(ROUNDS):
        began = perf_counter()
        compiled = compiler.compile(grammar)
        compile_s.append(perf_counter() - began)
    began = perf_counter()
    matchers = [compiled.matcher.deep_copy() for _ in range(ROUNDS + 1)]
    copy_s = (perf_counter() - began) / len(matchers)
    mask = np.zeros(-(-compiled.width // 32), np.uint32)
    for matcher in matchers:
        for token in ids:
            began = perf_counter()
            matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
            masked = perf_counter()
            assert matcher.consume_token(token), matcher.get_error()
            mask_s.append(masked - began)
            follow_s.append(perf_counter() - masked)
    first = len(ids)
    return Times(compile_s, copy_s, mask_s[first:], follow_s[first:])
