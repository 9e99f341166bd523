"""How much background work a step takes in."""

from itertools import takewhile
from math import sqrt
from typing import Final

from engine.protocol import StepWork
from engine.step.chunks import Chunk, decoding_rows, take_chunk, work_of
from engine.step.memory import KvMemory
from engine.step.sequence import SequenceState
from engine.step.step_cost import StepCost

UNKNOWN_SHARE: Final = 1 / 32  # of a step's tokens, while its cost is not known
MAX_HELD_STEPS: Final = 16  # the last of them takes background work in


class Allowance:
    """What background work may add to one step: seconds, spent on rows and on prompt tokens.

    With `due`, the first row or prompt chunk is granted whatever it takes: a row, or `least_prompt`
    tokens.
    """

    def __init__(
        self,
        seconds: float,
        coefficients: tuple[float, ...],
        *,
        has_prompt: bool,
        due: bool,
        least_prompt: int,
    ) -> None:
        _, self._prompt_s, self._token_s, self._read_s, self._row_s, self._kv_s = coefficients
        self._left_s = seconds
        self._has_prompt = has_prompt
        self._least_prompt = least_prompt
        self.due = due

    def row(self, kv_tokens: int) -> bool:
        """Grant a decoding sequence that reads `kv_tokens`."""
        cost_s = self._row_s + self._kv_s * kv_tokens
        if cost_s > self._left_s and not self.due:
            return False
        self._left_s -= cost_s
        self.due = False
        return True

    def prompt(self, start: int, tokens: int) -> int:
        """How many of `tokens` prompt tokens are granted that follow `start` others."""
        left_s = self._left_s - (0.0 if self._has_prompt else self._prompt_s)
        granted = min(tokens, self._affordable(left_s, start, tokens))
        if self.due:
            granted = max(granted, min(tokens, self._least_prompt))
        if granted:
            reads = granted * (start + granted / 2)
            self._left_s = left_s - self._token_s * granted - self._read_s * reads
            self._has_prompt = True
            self.due = False
        return granted

    def _affordable(self, left_s: float, start: int, most: int) -> int:
        """The most tokens n with token_s · n + read_s · n · (start + n/2) ≤ left_s."""
        if left_s <= 0:
            return 0
        linear, square = self._token_s + self._read_s * start, self._read_s / 2
        if linear * most + square * most * most <= left_s:
            return most
        return int(2 * left_s / (linear + sqrt(linear * linear + 4 * square * left_s)))


class BackgroundWork:
    """Limits background work so that a step takes at most `factor` times the time without it.

    Its cost is predicted from the steps before. While it is not known, background work gets
    `UNKNOWN_SHARE` of the step's tokens. Of `MAX_HELD_STEPS` steps in a row one grants at least a
    row or a page of a prompt, so none starves.
    """

    def __init__(self, step_tokens: int, page_tokens: int, factor: float) -> None:
        self.cost = StepCost()
        self.held_rows = 0  # decoding sequences left out of a step, in total
        self._unknown_tokens = max(1, int(step_tokens * UNKNOWN_SHARE))
        self._page_tokens = page_tokens
        self._factor = factor
        self._held_steps = 0

    @property
    def due(self) -> bool:
        """Whether the next step must take some in."""
        return self._held_steps + 1 >= MAX_HELD_STEPS

    def allowance(self, work: StepWork) -> Allowance:
        """For a step that has this work of others."""
        seconds = self.cost.seconds(work)
        coefficients = self.cost.coefficients
        if seconds is None or coefficients is None:
            added, coefficients = float(self._unknown_tokens), (0.0, 0.0, 1.0, 0.0, 1.0, 0.0)
        else:
            added = (self._factor - 1) * seconds
        return Allowance(
            added,
            coefficients,
            has_prompt=work.prompt_tokens > 0,
            due=self.due,
            least_prompt=self._page_tokens,
        )

    def fill(
        self, memory: KvMemory, ready: list[SequenceState], budget: int, others: list[Chunk]
    ) -> list[Chunk]:
        """Chunks of `ready`, background sequences in the order they started, for a step.

        At most `budget` tokens; with `others` in the step, what they allow.
        """
        allowance = self.allowance(work_of(others)) if others else None
        decoding = [s for s in ready if s.uncomputed == 1]
        prompts = [s for s in ready if s.uncomputed > 1]
        rows = decoding[: decoding_rows(len(decoding), budget, prompts=bool(prompts))]
        if allowance is not None:
            granted = allowance
            rows = list(takewhile(lambda s: granted.row(s.computed + 1), rows))
            self.held_rows += len(decoding) - len(rows)
        chunks = [take_chunk(memory, sequence, 1) for sequence in rows]
        budget -= len(rows)
        for sequence in prompts:
            if budget <= 0:
                break
            memory.extend_prefix(sequence)
            tokens = min(sequence.uncomputed, budget)
            if allowance is not None:
                tokens = allowance.prompt(sequence.computed, tokens)
            if tokens:
                chunks.append(take_chunk(memory, sequence, tokens))
                budget -= chunks[-1].length
        chunks = [chunk for chunk in chunks if chunk.length]
        self._held_steps = 0 if chunks else self._held_steps + 1
        return chunks
