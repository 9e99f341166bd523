"""A simulated engine with two lanes: interactive sequences, and background ones of batch jobs.

It follows the rules of the engine's composer for background work. Interactive sequences are
composed first, as if there were no others. Background ones start last, are preempted first, and get
of a step what keeps it within `background_factor` times its time without them; alone, all of it.
"""

from math import inf
from typing import Final

from gateway.replay.cost.model import EngineModel
from gateway.replay.engine.base import Sequences
from gateway.replay.engine.lane_memory import LaneMemoryEngine
from gateway.replay.engine.sequence import SimulatedSequence
from gateway.replay.engine.step_allowance import MAX_HELD_STEPS, StepAllowance, StepWork

PROMPT_SHARE: Final = 1 / 8  # of what a step has for background work, if not all of it fits


class LanesEngine(LaneMemoryEngine):
    """Continuous batching of both lanes, with shared prefixes and pins."""

    def __init__(self, model: EngineModel) -> None:
        super().__init__(model)
        self._held_steps = 0  # in a row, without background work
        self._mixed = False  # whether the step that is composed has work of both lanes
        self._with_background = False  # whether background work is composed, after the others

    def _prepare(self) -> int:
        self._receive(self.steps)
        if not (self.running or self._queued or self._queued_background):
            self._receive(inf)
        for sequence in [each for each in self._prefilling if _left(each) == 1]:
            self._prefilling.remove(sequence)  # it has read the rest of its prompt
            self._start_decoding(sequence)
        self._preempt_where_pages_lack()
        if self._queued:
            self._start_fitting()
        self._prompt_tokens = 0
        self._chunks.clear()
        self._compose_interactive()
        if self._queued_background and not self._queued:
            self.reservations.sampled = {
                each.arrival for each in self._prefilled if not (each.background or _left(each))
            }
            self._start_background()
        self._mixed = False
        if self.background:
            self._compose_background()
        return self._prompt_tokens

    def _next_change(self) -> int:
        may_start = self._queued or self._queued_background
        if self._mixed or (may_start and not self._start_blocked and not self._full):
            return self.steps + 1
        return super()._next_change()

    def _compose_interactive(self) -> None:
        """Assign pages to interactive sequences; background ones yield theirs."""
        while self._pages_of_others() > self.free and self._yield_memory():
            pass
        if self._pages_of_others() > self.free:  # those that started read pages that were free
            self._preempt_for_pages()
        self._with_background = False
        self._claim_decode_pages()
        budget = self._shape.step_tokens - self._others - self._kept_for_background()
        for sequence in [each for each in self._prefilling if not each.background]:
            if budget <= 0:
                return
            self._adopt(sequence)
            tokens = min(_left(sequence), budget)
            while self._pages_lacking(sequence, tokens) > 0 and self._yield_memory():
                pass
            budget -= self._compute_prompt(sequence, budget)

    def _claim_decode_pages(self) -> None:
        if self._with_background:
            super()._claim_decode_pages()
            return
        self._decode_claim = self._pages_of_others() if self._others else 0
        self._evict_for(self._decode_claim)

    def _pages_lacking(self, sequence: SimulatedSequence, tokens: int) -> int:
        held = -(-sequence.computed // self._page_tokens)
        needed = -(-(sequence.computed + tokens) // self._page_tokens) - held
        return needed + self._decode_claim - self.free

    def _kept_for_background(self) -> int:
        """Tokens that interactive sequences leave in a step that must take background work in."""
        due = self._held_steps + 1 >= MAX_HELD_STEPS
        if due and self.background:
            return min(self._page_tokens, self._shape.step_tokens // 2)
        return 0

    def _start_background(self) -> None:
        """Start background sequences that fit; nothing interactive waits."""
        while not self._start_blocked and self._queued_background and not self._full:
            queue = self.background_preempted or self.background_waiting
            sequence = queue[0]
            sequence.reserve_next()
            if not (self._start_alone(sequence) if not self.running else self._fits(sequence)):
                self._start_blocked = True
                return
            del queue[0]
            self._start_sequence(sequence)

    def _compose_background(self) -> None:
        """Let background sequences have the rest of the step, or what its others allow."""
        others, prompts = self._others, self._prompt_tokens
        allowance = self._allowance() if others or prompts else None
        rows = [each for each in self.background.values() if self._is_row(each)]
        budget = self._shape.step_tokens - others - prompts
        granted = _rows_within(
            budget, len(rows), prompts=any(p.background for p in self._prefilling)
        )
        if allowance is not None:
            granted = allowance.rows([self._computed(each) + 1 for each in rows[:granted]])
            self._mixed = True
            self.statistics.held_rows += len(rows) - granted
        self._hold(rows, granted)
        budget -= self._background_pages.count
        self._with_background = True
        self._claim_decode_pages()
        before = self._prompt_tokens
        for sequence in [each for each in self._prefilling if each.background]:
            if budget <= 0:
                break
            self._adopt(sequence)
            tokens = min(_left(sequence), budget)
            if allowance is not None:
                tokens = allowance.prompt(sequence.computed, tokens)
            if tokens:
                budget -= self._compute_prompt(sequence, tokens)
        worked = granted or self._prompt_tokens > before
        if rows or any(each.background for each in self._prefilling) or worked:
            self._held_steps = 0 if worked else self._held_steps + 1

    def _allowance(self) -> StepAllowance:
        both, background = (
            pages.kv_tokens(self.steps) for pages in (self._decode_pages, self._background_pages)
        )
        work = StepWork(self._prompt_tokens, self._others, both - background, self._prompt_reads)
        return StepAllowance(
            self._cost,
            self._shape.background_factor,
            work,
            due=self._held_steps + 1 >= MAX_HELD_STEPS,
            least_prompt=self._page_tokens,
        )

    def _is_row(self, sequence: SimulatedSequence) -> bool:
        return sequence.decoding or sequence.arrival in self.held

    def _hold(self, rows: Sequences, granted: int) -> None:
        """The first rows decode in this step, if there are pages for them; the others do not."""
        pages = self.free - self._decode_claim
        for index, sequence in enumerate(rows):
            needed = int(self._computed(sequence) % self._page_tokens == 0)
            if sequence.ended and needed > pages:
                self._leave(sequence)
            elif needed <= pages and (sequence.ended or index < granted):
                pages -= needed
                if self.held.pop(sequence.arrival, None) is not None:
                    sequence.known_tokens = sequence.prompt_tokens + sequence.generated
                    self._start_decoding(sequence)
            else:
                if sequence.decoding:
                    self._stop_decoding(sequence)
                    self.reservations.extend(sequence, sequence.generated)
                    self.held[sequence.arrival] = sequence
                if index < granted:  # it lacks a page; those that it has are known by now
                    sequence.known_tokens = max(sequence.known_tokens, sequence.computed)


def _rows_within(tokens: int, rows: int, *, prompts: bool) -> int:
    """How many decoding sequences get one of a step's tokens; prompts keep a share."""
    if rows + prompts <= tokens:
        return rows
    return max(0, tokens - (max(1, int(PROMPT_SHARE * tokens)) if prompts else 0))


def _left(sequence: SimulatedSequence) -> int:
    """Prompt tokens not computed yet."""
    return sequence.prompt_tokens + sequence.generated - sequence.computed
