"""The thread that follows grammars and fills their masks while the model computes a step.

A mask takes some ten microseconds, but that of an ambiguous grammar may take hundreds of
milliseconds, for which all sequences of the step wait. So after a fill that took long, each mask is
timed, in processor time of this thread, and a sequence with several slow ones is ended.
"""

import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np
from llguidance import LLExecutor

from engine.grammar.automaton import Words
from engine.sampling import GrammarRow, PendingOutput, StepGrammars

MAX_HELPERS: Final = 8  # threads that compute the masks of a step
SLOW_MASK_S: Final = 0.03


class GrammarThread:
    """Fills masks and follows sampled tokens, in the order of the calls; never blocks the caller.

    The thread and its helpers start when the first grammar comes. A mask is slow if it takes longer
    than `slow_s`.
    """

    def __init__(self, helpers: int = 1, slow_s: float = SLOW_MASK_S) -> None:
        self._thread = ThreadPoolExecutor(1, "masks")
        self._slow_s = slow_s
        self._timed = False  # whether each mask is timed
        self._helpers = max(1, min(helpers, MAX_HELPERS))
        self._executor: LLExecutor | None = None

    def fill(self, grammars: StepGrammars) -> Future[None]:
        """Fill the masks of a step; the tokens of all steps before have been followed."""
        return self._thread.submit(self._fill, grammars)

    def follow(self, grammars: StepGrammars, output: PendingOutput) -> Future[Collection[int]]:
        """Follow the tokens of a step; the rows whose text is complete and cannot go on."""
        return self._thread.submit(_follow, grammars, output)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _fill(self, grammars: StepGrammars) -> None:
        if self._executor is None:
            self._executor = LLExecutor(self._helpers)
        rows, masks = grammars.rows, grammars.masks.numpy().view(np.uint32)
        for each in rows:
            if each.restart is not None:
                each.automaton.restart(each.restart)
        if self._timed:
            self._timed = _fill_timed(rows, masks, self._slow_s)
        else:
            began_s = time.perf_counter()
            matchers = [(each.automaton.matcher, place) for place, each in enumerate(rows)]
            self._executor.unsafe_compute_mask_ptr(
                matchers, masks.ctypes.data, masks.strides[0], len(rows)
            )
            self._timed = time.perf_counter() - began_s > self._slow_s
        for mask, each in zip(masks, rows, strict=True):
            each.automaton.complete_mask(mask)


def _fill_timed(rows: Sequence[GrammarRow], masks: Words, slow_s: float) -> bool:
    """Fill the masks (rows, words) one after the other; whether one was slow."""
    any_slow = False
    for mask, each in zip(masks, rows, strict=True):
        if each.automaton.failure is not None:
            continue
        began_s = time.thread_time()
        each.automaton.matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if time.thread_time() - began_s > slow_s:
            any_slow = True
            each.automaton.mask_was_slow()
    return any_slow


def _follow(grammars: StepGrammars, output: PendingOutput) -> Collection[int]:
    tokens = output.tokens()
    return {
        each.row
        for each in grammars.rows
        if (token := tokens[each.row]) is not None and each.automaton.advance(token)
    }
