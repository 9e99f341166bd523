"""A simulated engine in lock step: Magnus's setting (arXiv 2406.04785).

The rules of the engine's own: a batch starts when the one before has ended, all prompts padded to
the longest; all rows decode until the longest has ended, and leave together. Where pages run out
the batch is broken up, and its halves take their turn with what they have generated.
"""

from collections import deque
from math import ceil, inf
from typing import Final

from gateway.replay.cost.model import EngineModel
from gateway.replay.engine.base import Sequences, SimulatedEngine

PAIR: Final = 2


class LockstepEngine(SimulatedEngine):
    """One batch after another, in the order they were submitted.

    Where `owner_halves`, a batch of two or more that breaks is given back by `take_broken`.
    """

    def __init__(self, model: EngineModel, *, owner_halves: bool) -> None:
        super().__init__(model)
        self._owner_halves = owner_halves
        self._waiting: deque[Sequences] = deque()
        self._broken: Sequences = []
        self._rows: Sequences = []
        self._width = 0  # tokens that prompts are padded to
        self._computed = 0  # padded prompt tokens, of all rows
        self._decoded = 0  # steps in which all rows decoded
        self._ghosts = 0  # rows that a last step goes on with

    def take_broken(self) -> Sequences:
        """Sequences of a batch that ran out of memory: their owner submits them again."""
        broken, self._broken = self._broken, []
        return broken

    def compose(self) -> None:
        """Begin the next steps; after a batch broke, it is at once their owner's turn."""
        super().compose()
        if self._broken:
            self.next_s = self._now_s

    def pages_at(self, at_s: float) -> int:
        """Pages held at a time up to `next_s`."""
        if not self._under_way or self._ghosts:
            return 0
        if self._computed < len(self._rows) * self._width:
            return self._prompt_pages(self._computed + self._chunk)
        steps = max(self._timeline.boundary(at_s) - self.steps, 1)
        return len(self._rows) * self._pages(self._width + self._decoded + steps)

    def _stepped(self) -> Sequences:
        steps = self._timeline.last - self.steps
        self.steps = self._timeline.last
        seconds = self._now_s - self._timeline.began_s
        if self._ghosts:
            self.work.add(steps, seconds, 0, 0)
            self.work.computed_tokens += steps * self._ghosts
            self._ghosts = 0
            return []
        if self._computed < len(self._rows) * self._width:
            self._prefilled(seconds)
        else:
            self._grown(steps, seconds)
        return self._ended()

    def _begin_steps(self) -> None:
        at_rest = not (self._rows or self._ghosts or self._waiting)
        self._waiting.extend(self._orders.take_batches(inf if at_rest else self.steps))
        if not self._rows and not self._ghosts:
            self._begin()
        if self._ghosts:
            self._go_on(self._ghosts, self._shape.ghost_steps, self._decoded + 1)
        elif self._computed < len(self._rows) * self._width:
            self._under_way = True
            seconds = self._cost.seconds(self._chunk, 0, 0)
            self._timeline.step(self._now_s, self.steps, seconds)
        elif self._rows:
            self._go_on(len(self._rows), min(self._left, self._room), self._decoded + 1)

    @property
    def _chunk(self) -> int:
        """Prompt tokens of the next step."""
        return min(self._shape.step_tokens, len(self._rows) * self._width - self._computed)

    @property
    def _left(self) -> int:
        """Steps of decoding until the longest has ended."""
        return max(row.tokens - row.generated_at(self.steps) for row in self._rows)

    @property
    def _room(self) -> int:
        """Steps of decoding for which there are pages."""
        each = self._shape.pages // len(self._rows) * self._shape.page_tokens
        return each - self._width - self._decoded

    def _begin(self) -> None:
        """Start the next batch, or as large a half of it as memory holds."""
        while self._waiting and not self._rows:
            batch = self._waiting.popleft()
            width = max(row.prompt_tokens + row.generated for row in batch)
            if len(batch) > 1 and len(batch) * self._pages(width + 1) > self._shape.pages:
                self._break_up(batch)
                if self._broken:
                    return
                continue
            self._rows, self._width = batch, width
            self._computed = self._decoded = 0

    def _go_on(self, rows: int, steps: int, ahead: int) -> None:
        """Steps in which so many rows decode, each `ahead` of its padded prompt."""
        first = self.steps
        self._under_way = True
        self._timeline.run(
            self._now_s, first, first + steps, rows, rows * (self._width + ahead), 0.0
        )

    def _prefilled(self, seconds: float) -> None:
        """A step computed prompts; rows whose prompt is complete have a token more."""
        before, self._computed = self._computed, self._computed + self._chunk
        self.work.computed_tokens += self._computed - before
        pages = self._prompt_pages(self._computed)
        self.work.add(1, seconds, pages, pages)
        for row in self._rows[before // self._width : self._computed // self._width]:
            row.generated += 1
            if row.generated == 1:
                row.first_token_s = self._now_s
        if self._computed == len(self._rows) * self._width:
            for row in self._rows:
                row.decoding = True
                row.lead = row.prompt_tokens + row.generated - self.steps

    def _grown(self, steps: int, seconds: float) -> None:
        """Every row got a token in each of these steps."""
        rows, length = len(self._rows), self._width + self._decoded
        self.work.add(
            steps, seconds, rows * self._pages(length + 1), rows * self._pages(length + steps)
        )
        self.work.computed_tokens += rows * steps
        self._decoded += steps

    def _ended(self) -> Sequences:
        """The rows that leave now: all when the longest has ended, those that did when it broke."""
        rows = self._rows
        if self._computed < len(rows) * self._width or (self._left > 0 and self._room > 0):
            return []
        for row in rows:
            row.generated = min(row.generated_at(self.steps), row.tokens)
            row.decoding = False
        broken = [row for row in rows if row.generated < row.tokens]
        ended = [row for row in rows if row.generated == row.tokens]
        self._rows = []
        if broken:
            self.work.recomputed_tokens += len(broken) * (self._width + self._decoded)
            self.work.preemptions += len(broken)
            for row in broken:
                row.preemptions += 1
            self._break_up(broken)
        else:
            self._ghosts = len(rows) * self._shape.ghost_steps
        return ended

    def _break_up(self, batch: Sequences) -> None:
        """Let the halves of a batch wait again, here or at its owner's."""
        if self._owner_halves and len(batch) >= PAIR:
            self._broken += batch
            return
        half = ceil(len(batch) / 2)
        self._waiting.extendleft(part for part in (batch[half:], batch[:half]) if part)

    def _prompt_pages(self, computed: int) -> int:
        """Pages of prompts of which so many padded tokens are computed."""
        rows, rest = divmod(computed, self._width)
        return rows * self._pages(self._width) + self._pages(rest)

    def _pages(self, tokens: int) -> int:
        return -(-tokens // self._shape.page_tokens)
