"""Follows the tokens of one sequence through its grammar."""

from collections.abc import Collection, Sequence
from typing import Final, TypeAlias

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from engine.grammar.compiler import CompiledGrammar

Words: TypeAlias = NDArray[np.uint32]
"""A mask: bit b of word w says whether token 32 w + b may follow."""

MAX_SLOW_MASKS: Final = 3  # of an answer: one may be slow while caches are filled
TOO_SLOW: Final = (
    "its grammar is too ambiguous: to find the tokens that may follow takes too long; "
    "use a grammar that describes each text in one way"
)


class Automaton:
    """The position of one sequence in its grammar, which follows from its generated tokens alone.

    The step loop calls `expect` for each step that samples a token of the sequence. One other
    thread makes all other calls, in the same order.
    """

    def __init__(self, compiled: CompiledGrammar, stop_ids: Collection[int]) -> None:
        self._compiled = compiled
        self._stop_ids = frozenset(stop_ids)
        self._expected = 0  # generated tokens before the next one that is sampled
        self.matcher: LLMatcher = compiled.matcher.deep_copy()
        self.failure: str | None = None  # why no token can follow, although the text is not done
        self._slow_masks = 0

    @property
    def width(self) -> int:
        """Number of token ids that its masks cover."""
        return self._compiled.width

    def expect(self, tokens: Sequence[int], start: int, *, carried: bool) -> list[int] | None:
        """Note that a token is sampled after the generated `tokens[start:]`.

        `carried`: and after one that the previous step samples. Returns the tokens to restart with
        if it has followed others, as at the beginning or after a step that failed, else None.
        """
        known = len(tokens) - start + carried
        follows = known == self._expected
        self._expected = known + 1
        return None if follows else list(tokens[start:])

    def restart(self, generated: Sequence[int]) -> None:
        """Follow these tokens from the start."""
        self.matcher = self._compiled.matcher.deep_copy()
        self.failure = TOO_SLOW if self._slow_masks >= MAX_SLOW_MASKS else None
        for token in generated:
            self.advance(token)

    def complete_mask(self, mask: Words) -> None:
        """Correct the matcher's mask: it knows one stop id, and none of the sequence's own."""
        if self.failure is None and self.matcher.is_error():
            self.failure = self.matcher.get_error()
        if self.failure is not None:
            mask[:] = 0
            return
        eos = self._compiled.eos
        may_end = bool(mask[eos // 32] >> (eos % 32) & 1)
        if eos not in self._stop_ids:
            mask[eos // 32] &= ~np.uint32(1 << eos % 32)
        if may_end:
            for token in self._stop_ids:
                mask[token // 32] |= np.uint32(1 << token % 32)

    def mask_was_slow(self) -> None:
        """Note that a mask took so long that other sequences' steps waited; end it if often."""
        self._slow_masks += 1
        if self._slow_masks >= MAX_SLOW_MASKS:
            self.failure = self.failure or TOO_SLOW

    def advance(self, token: int) -> bool:
        """Follow one more token; whether the text is complete and cannot go on."""
        if token in self._stop_ids or self.failure is not None:
            return False
        if not self.matcher.consume_token(token):
            self.failure = self.matcher.get_error()
            return False
        return self.matcher.is_stopped()
