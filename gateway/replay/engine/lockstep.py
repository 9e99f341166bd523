"""A simulated engine that runs batches in lockstep: Magnus's setting (arXiv 2406.04785).

It follows the rules of the real engine: a batch starts when the previous one has ended, with all
prompts padded to the longest; all rows decode until the longest answer has ended, and leave
together. If pages run out, the ended rows leave, and the others are returned to the owner with the
tokens generated so far; so is a batch for which there are not enough pages at its start.
"""

from collections import deque
from math import inf

from gateway.replay.cost.model import EngineModel
from gateway.replay.engine.base import Sequences, SimulatedEngine


class LockstepEngine(SimulatedEngine):
    """One batch after another, in order of submission."""

    def __init__(self, model: EngineModel) -> None:
        super().__init__(model)
        self._waiting: deque[Sequences] = deque()
        self._returned: Sequences = []
        self._rows: Sequences = []
        self._width = 0  # tokens that prompts are padded to
        self._computed = 0  # padded prompt tokens, of all rows
        self._decoded = 0  # steps in which the rows decoded
        self._ghost_rows = 0  # rows of a last step, composed before their ends were noticed

    def take_returned(self) -> Sequences:
        """What is left of a batch that ran out of memory; its owner submits it again."""
        returned, self._returned = self._returned, []
        return returned

    def compose(self) -> None:
        """Begin the next steps; if a batch does not fit, return it to its owner at once."""
        super().compose()
        if self._returned:
            self.next_s = self._now_s

    def pages_at(self, at_s: float) -> int:
        """Pages in use at a time up to `next_s`."""
        if not self._stepping or self._ghost_rows:
            return 0
        if self._computed < len(self._rows) * self._width:
            return self._prompt_pages(self._computed + self._chunk)
        steps = max(self._timeline.boundary(at_s) - self.steps, 1)
        return len(self._rows) * self._pages(self._width + self._decoded + steps)

    def _finish_steps(self) -> Sequences:
        steps = self._timeline.last - self.steps
        self.steps = self._timeline.last
        seconds = self._now_s - self._timeline.began_s
        if self._ghost_rows:
            self.statistics.add(steps, seconds, 0, 0)
            self.statistics.computed_tokens += steps * self._ghost_rows
            self._ghost_rows = 0
            return []
        if self._computed < len(self._rows) * self._width:
            self._finish_prefill(seconds)
        else:
            self._finish_decoding(steps, seconds)
        return self._finished_rows()

    def _begin_steps(self) -> None:
        at_rest = not (self._rows or self._ghost_rows or self._waiting)
        taken = self._submissions.take_each(inf if at_rest else self.steps)
        self._waiting.extend(each.sequences for each in taken if each.sequences)
        if not self._rows and not self._ghost_rows:
            self._begin()
        if self._ghost_rows:
            self._begin_decoding(self._ghost_rows, self._shape.ghost_steps, self._decoded + 1)
        elif self._computed < len(self._rows) * self._width:
            self._stepping = True
            seconds = self._cost.seconds(self._chunk, 0, 0)
            self._timeline.step(self._now_s, self.steps, seconds)
        elif self._rows:
            self._begin_decoding(
                len(self._rows), min(self._steps_left, self._steps_with_pages), self._decoded + 1
            )

    @property
    def _chunk(self) -> int:
        """Prompt tokens of the next step."""
        return min(self._shape.step_tokens, len(self._rows) * self._width - self._computed)

    @property
    def _steps_left(self) -> int:
        """Decode steps until the longest answer has ended."""
        return max(row.tokens - row.generated_at(self.steps) for row in self._rows)

    @property
    def _steps_with_pages(self) -> int:
        """Decode steps for which there are pages."""
        row_tokens = self._shape.pages // len(self._rows) * self._shape.page_tokens
        return row_tokens - self._width - self._decoded

    def _begin(self) -> None:
        """Start the next batch, or return it if it does not fit the memory."""
        if not self._waiting:
            return
        batch = self._waiting.popleft()
        width = max(row.prompt_tokens + row.generated for row in batch)
        if len(batch) > 1 and len(batch) * self._pages(width + 1) > self._shape.pages:
            self._return_rows(batch)
            return
        self._rows, self._width = batch, width
        self._computed = self._decoded = 0

    def _begin_decoding(self, rows: int, steps: int, ahead: int) -> None:
        """Begin decode steps of `rows` rows, each with `ahead` tokens after its padded prompt."""
        first = self.steps
        self._stepping = True
        self._timeline.run(
            self._now_s, first, first + steps, rows, rows * (self._width + ahead), 0.0
        )

    def _finish_prefill(self, seconds: float) -> None:
        """Account for a prefill step; rows with a complete prompt have a new token."""
        before, self._computed = self._computed, self._computed + self._chunk
        self.statistics.computed_tokens += self._computed - before
        pages = self._prompt_pages(self._computed)
        self.statistics.add(1, seconds, pages, pages)
        for row in self._rows[before // self._width : self._computed // self._width]:
            row.generated += 1
            if row.generated == 1:
                row.first_token_s = self._now_s
        if self._computed == len(self._rows) * self._width:
            for row in self._rows:
                row.decoding = True
                row.length_offset = row.prompt_tokens + row.generated - self.steps

    def _finish_decoding(self, steps: int, seconds: float) -> None:
        """Account for decode steps: each row got a token in each of them."""
        rows, length = len(self._rows), self._width + self._decoded
        self.statistics.add(
            steps, seconds, rows * self._pages(length + 1), rows * self._pages(length + steps)
        )
        self.statistics.computed_tokens += rows * steps
        self._decoded += steps

    def _finished_rows(self) -> Sequences:
        """Rows that leave: all once the longest has ended; on lack of memory, those that ended."""
        rows = self._rows
        if self._computed < len(rows) * self._width or (
            self._steps_left > 0 and self._steps_with_pages > 0
        ):
            return []
        for row in rows:
            generated = row.generated_at(self.steps)
            row.generated = min(generated, row.tokens)
            self.statistics.invalid_tokens += generated - row.generated
            row.decoding = False
        out_of_memory = [row for row in rows if row.generated < row.tokens]
        ended = [row for row in rows if row.generated == row.tokens]
        if out_of_memory:
            self.statistics.recomputed_tokens += len(out_of_memory) * (self._width + self._decoded)
            self._return_rows(out_of_memory)
        elif self._steps_with_pages > 0:
            self._ghost_rows = len(rows) * self._shape.ghost_steps
        self._rows = []
        return ended

    def _return_rows(self, rows: Sequences) -> None:
        """Return the rest of a batch to its owner; each row counts as preempted."""
        self.statistics.preemptions += len(rows)
        self.statistics.splits += 1
        for row in rows:
            row.preemptions += 1
        self._returned = rows

    def _prompt_pages(self, computed: int) -> int:
        """Pages of prompts with `computed` of their padded tokens computed."""
        rows, rest = divmod(computed, self._width)
        return rows * self._pages(self._width) + self._pages(rest)

    def _pages(self, tokens: int) -> int:
        return -(-tokens // self._shape.page_tokens)
