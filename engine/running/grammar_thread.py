"""The thread that follows grammars and fills their masks while the model computes a step."""

from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np
from llguidance import LLExecutor

from engine.sampling import PendingOutput, StepGrammars

MAX_HELPERS: Final = 8  # threads that compute the masks of a step


class GrammarThread:
    """Fills masks and follows sampled tokens, in the order of the calls; never blocks the caller.

    The thread and its helpers start when the first grammar comes.
    """

    def __init__(self, helpers: int = 1) -> None:
        self._thread = ThreadPoolExecutor(1, "masks")
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
        matchers = [(each.automaton.matcher, place) for place, each in enumerate(rows)]
        self._executor.unsafe_compute_mask_ptr(
            matchers, masks.ctypes.data, masks.strides[0], len(rows)
        )
        for mask, each in zip(masks, rows, strict=True):
            each.automaton.complete_mask(mask)


def _follow(grammars: StepGrammars, output: PendingOutput) -> Collection[int]:
    tokens = output.tokens()
    return {
        each.row
        for each in grammars.rows
        if (token := tokens[each.row]) is not None and each.automaton.advance(token)
    }
