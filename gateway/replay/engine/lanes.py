"""A simulated engine with two lanes: interactive sequences, and background ones of batch jobs.

It follows the rules of the engine's composer for background work. Interactive sequences are
composed first, as if there were no others. Background ones start last, are preempted first, and get
of a step what keeps steps within `background_factor` times their time without them on average.
"""

from math import inf
from typing import Final

from gateway.replay.cost.model import EngineModel
from gateway.replay.engine.base import Sequences
from gateway.replay.engine.lane_memory import LaneMemoryEngine
from gateway.replay.engine.sequence import SimulatedSequence
from gateway.replay.engine.step_allowance import BackgroundLimits, StepAllowance, StepWork

PROMPT_SHARE: Final = 1 / 8  # of what a step has for background work, if not all of it fits


class LanesEngine(LaneMemoryEngine):
    """Continuous batching of both lanes, with shared prefixes and pins."""

    def __init__(self, model: EngineModel) -> None:
        super().__init__(model)
        shape = self._shape
        self._limits = BackgroundLimits(self._cost, shape.background_factor, self._page_tokens)
        self._limited = False  # whether the step that is composed limits background work
        self._with_prompt = False  # whether it has more than a token of an interactive prompt
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
        self._limited = False
        if self.background:
            self._compose_background()
        return self._prompt_tokens

    def _next_change(self) -> int:
        may_start = self._queued or self._queued_background
        if self._limited or (may_start and not self._start_blocked and not self._full):
            return self.steps + 1
        return super()._next_change()

    def _compose_interactive(self) -> None:
        """Assign pages to interactive sequences; background ones yield theirs."""
        while self._pages_of_others() > self.free and self._yield_memory():
            pass
        if self._pages_of_others() > self.free:  # those that started read pages that were free
            self._preempt_for_pages()
        self._with_background = self._with_prompt = False
        self._claim_decode_pages()
        budget = self._shape.step_tokens - self._others - self._kept_for_background()
        for sequence in [each for each in self._prefilling if not each.background]:
            if budget <= 0:
                return
            self._adopt(sequence)
            tokens = min(_left(sequence), budget)
            while self._pages_lacking(sequence, tokens) > 0 and self._yield_memory():
                pass
            computed = self._compute_prompt(sequence, budget)
            self._with_prompt = self._with_prompt or computed > 1
            budget -= computed

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
        if self._limits.due and self.background:
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
        rows = [each for each in self.background.values() if self._is_row(each)]
        prefilling = [each for each in self._prefilling if each.background]
        allowance = None
        if rows or prefilling:
            allowance = self._allowance() if others or prompts else self._limits.alone()
        self._limited = allowance is not None
        budget = self._shape.step_tokens - others - prompts
        granted = _rows_within(budget, len(rows), prompts=bool(prefilling))
        if allowance is not None:
            granted = allowance.rows([self._computed(each) + 1 for each in rows[:granted]])
            self.statistics.held_rows += len(rows) - granted
        self._hold(rows, granted)
        budget -= self._background_pages.count
        self._with_background = True
        self._claim_decode_pages()
        before = self._prompt_tokens
        for sequence in prefilling:
            if budget <= 0:
                break
            self._adopt(sequence)
            tokens = min(_left(sequence), budget)
            if allowance is not None:
                tokens = allowance.prompt(sequence.computed, tokens)
            if tokens:
                budget -= self._compute_prompt(sequence, tokens)
        worked = bool(granted) or self._prompt_tokens > before
        if rows or prefilling:
            self._limits.composed(allowance, self._work().seconds(self._cost), worked=worked)

    def _work(self) -> StepWork:
        """What the step that is composed has so far."""
        reads = self._decode_pages.kv_tokens(self.steps)
        rows = self._others + self._background_pages.count
        return StepWork(self._prompt_tokens, rows, reads, self._prompt_reads)

    def _allowance(self) -> StepAllowance:
        background = self._background_pages.kv_tokens(self.steps)
        both = self._decode_pages.kv_tokens(self.steps)
        work = StepWork(self._prompt_tokens, self._others, both - background, self._prompt_reads)
        return self._limits.with_others(work, prompt=self._with_prompt)

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
    return max(min(tokens, 1), tokens - (max(1, int(PROMPT_SHARE * tokens)) if prompts else 0))


def _left(sequence: SimulatedSequence) -> int:
    """Prompt tokens not computed yet."""
    return sequence.prompt_tokens + sequence.generated - sequence.computed
