"""How much background work a step takes in."""

from itertools import takewhile
from math import sqrt
from typing import Final

from engine.protocol import StepWork
from engine.step.chunks import Chunk, decoding_rows, take_chunk, work_of
from engine.step.memory import KvMemory
from engine.step.sequence import SequenceState
from engine.step.step_cost import StepCost

LEAST_ROWS: Final = 16  # run, for a fit from fewer rows says little about more
MAX_DOUBLINGS: Final = 16  # of the first rows, while their time is not seen
UNKNOWN_SHARE: Final = 1 / 32  # of a step's tokens, while its cost is not known
MAX_HELD_STEPS: Final = 64  # the last of them takes background work in
SAVED_STEPS: Final = 32  # whose seconds for background work are saved at most
ALONE_FACTOR: Final = 20  # how much more a step of background alone may exceed others' steps
RECENT_STEPS: Final = 32  # of others, over which their time is averaged
RECENT_S: Final = 60.0  # of background alone, after which it takes everything


class Allowance:
    """What background work may add to one step: seconds, spent on rows and on prompt tokens.

    With `due`, the first row or prompt chunk is granted whatever it takes: a row, or `least_prompt`
    tokens. A chunk has at least these, or is the rest of its prompt.
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

    @property
    def left_s(self) -> float:
        """The seconds that are left; negative if more was granted than there was."""
        return self._left_s

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
        least = min(tokens, self._least_prompt)
        granted = min(tokens, self._affordable(left_s, start, tokens))
        if granted < least:  # fewer are not worth what a prompt adds to a step
            granted = least if self.due else 0
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
    """Limits background work, by the time that it is predicted to add to steps.

    It lengthens steps with others by a factor of at most `factor`, in the long run: each without a
    prompt of others earns seconds for it, which are saved until they suffice for a row or a page.
    A step gets longer than by what is added to it, since more work of others gathers in it. If it
    takes a + b seconds, b in proportion to the length of steps, then d seconds more make it 1 + d/a
    times as long. So it earns (`factor` - 1) · a, with a what any step takes whatever its work. A
    step with a prompt of others takes none in, for someone waits for its first token. Of
    `MAX_HELD_STEPS` steps in a row one takes a row or a page in, so none starves.

    A step of background alone is limited too while others come, for one that arrives waits for its
    end: to 1 + `ALONE_FACTOR` · (`factor` - 1) times the time of others' steps.

    While costs are unknown, it gets `UNKNOWN_SHARE` of the tokens of steps with others.

    No more sequences run than decode at full speed (`StepCost.full_rows`), or than a step has
    tokens: more would hold memory for longer and add little to the tokens per second.
    """

    def __init__(
        self, step_tokens: int, page_tokens: int, factor: float, first_rows: int = LEAST_ROWS
    ) -> None:
        self.cost = StepCost()
        self.held_rows = 0  # decoding sequences left out of a step, in total
        self.limited_alone = False  # whether the latest step is background alone, and limited
        self._step_tokens = step_tokens
        self._first_rows = first_rows
        self._unknown_tokens = max(1, int(step_tokens * UNKNOWN_SHARE))
        self._page_tokens = page_tokens
        self._factor = factor
        self._held_steps = 0
        self._saved_s = 0.0
        self._others_s: float | None = None  # of a step that decodes others, in the mean
        self._alone_s = 0.0  # of steps of background alone since the last step with others

    @property
    def due(self) -> bool:
        """Whether the next step must take some in."""
        return self._held_steps + 1 >= MAX_HELD_STEPS

    @property
    def most_rows(self) -> int:
        """Background sequences that run at once at most.

        Until that is measured, each fit that cannot see a row's time doubles them, so that the next
        ones can.
        """
        rows = self.cost.full_rows
        if rows is None:
            tried = self._first_rows << min(self.cost.blind_fits, MAX_DOUBLINGS)
            return max(self._first_rows, min(tried, self._step_tokens))
        return int(min(max(rows, LEAST_ROWS), self._step_tokens))

    def fill(
        self, memory: KvMemory, ready: list[SequenceState], budget: int, others: list[Chunk]
    ) -> list[Chunk]:
        """Chunks of `ready`, background sequences in the order they started, for a step.

        At most `budget` tokens; with `others` in the step, what they allow.
        """
        self.limited_alone = False
        if not ready:
            return []
        allowance = self._with_others(work_of(others)) if others else self._alone()
        self.limited_alone = allowance is not None and not others
        before_s = allowance.left_s if allowance else 0.0
        chunks = self._chunks(memory, ready, budget, allowance)
        self._held_steps = 0 if chunks else self._held_steps + 1
        if not others:
            self._alone_s += self.cost.seconds(work_of(chunks)) or 0.0
        elif allowance is not None and self.cost.coefficients is not None:
            self._saved_s -= before_s - allowance.left_s
        return chunks

    def _with_others(self, work: StepWork) -> Allowance:
        """For a step that has this work of others."""
        self._alone_s = 0.0
        seconds, coefficients = self.cost.seconds(work), self.cost.coefficients
        has_prompt = work.prompt_tokens > 0
        if seconds is None or coefficients is None:
            coefficients, left_s = (0.0, 0.0, 1.0, 0.0, 1.0, 0.0), float(self._unknown_tokens)
        elif has_prompt:
            left_s = 0.0
        else:
            left_s = self._earn(seconds, coefficients[0] or seconds)
        return Allowance(
            left_s,
            coefficients,
            has_prompt=has_prompt,
            due=self.due,
            least_prompt=self._page_tokens,
        )

    def _earn(self, seconds: float, fixed_s: float) -> float:
        """What may be spent in a step that takes `seconds`, `fixed_s` of them for any work."""
        known_s = seconds if self._others_s is None else self._others_s
        self._others_s = known_s + (seconds - known_s) / RECENT_STEPS
        earned_s = (self._factor - 1) * fixed_s
        most_s = SAVED_STEPS * earned_s
        self._saved_s = min(max(self._saved_s, -most_s) + earned_s, most_s)
        return self._saved_s

    def _alone(self) -> Allowance | None:
        """For a step without others; None: it takes everything."""
        coefficients = self.cost.coefficients
        if coefficients is None or self._others_s is None or self._alone_s > RECENT_S:
            return None
        limit_s = self._others_s * (1 + ALONE_FACTOR * (self._factor - 1))
        return Allowance(
            limit_s - coefficients[0],
            coefficients,
            has_prompt=False,
            due=True,
            least_prompt=self._page_tokens,
        )

    def _chunks(
        self,
        memory: KvMemory,
        ready: list[SequenceState],
        budget: int,
        allowance: Allowance | None,
    ) -> list[Chunk]:
        """Decoding sequences, then prompts, as far as the budget and the allowance go."""
        decoding = [s for s in ready if s.uncomputed == 1]
        prompts = [s for s in ready if s.uncomputed > 1]
        rows = decoding[: decoding_rows(len(decoding), budget, prompts=bool(prompts))]
        if allowance is not None:
            rows = list(takewhile(lambda s: allowance.row(s.computed + 1), rows))
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
        return [chunk for chunk in chunks if chunk.length]
