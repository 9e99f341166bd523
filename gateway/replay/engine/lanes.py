"""A simulated engine with two lanes: interactive sequences, and background ones of batch jobs.

It follows the rules of the engine's composer for background work. Interactive sequences are
composed first, as if there were no others. Background ones start last, are preempted first, and get
of a step what keeps it within `background_factor` times its time without them; alone, all of it.
"""

from bisect import insort
from collections import deque
from math import inf
from typing import Final

from gateway.replay.cost.model import EngineModel
from gateway.replay.engine.base import Sequences
from gateway.replay.engine.decode_pages import DecodePages
from gateway.replay.engine.lane_reservations import LaneReservations
from gateway.replay.engine.sequence import SimulatedSequence
from gateway.replay.engine.sharing import SharingEngine
from gateway.replay.engine.step_allowance import MAX_HELD_STEPS, StepAllowance, StepWork


PROMPT_SHARE: Final = 1 / 8  # of what a step has for background work, if not all of it fits


class LanesEngine(SharingEngine):
    """Continuous batching of both lanes, with shared prefixes and pins.

    A background sequence that a step leaves out is `held`: it does not decode, and keeps its pages.
    """

    def __init__(self, model: EngineModel) -> None:
        super().__init__(model)
        self.reservations: LaneReservations = LaneReservations(
            model.shape.pages, model.shape.page_tokens
        )
        self.background: dict[int, SimulatedSequence] = {}  # running ones, in start order
        self.background_waiting: deque[SimulatedSequence] = deque()
        self.background_preempted: Sequences = []  # in order of arrival
        self.held: dict[int, SimulatedSequence] = {}
        self._background_pages = DecodePages(model.shape.page_tokens)
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

    @property
    def _queued(self) -> bool:
        return bool(self.waiting or self.preempted)

    @property
    def _queued_background(self) -> bool:
        return bool(self.background_waiting or self.background_preempted)

    @property
    def _others(self) -> int:
        """Decoding interactive sequences."""
        return self._decode_pages.count - self._background_pages.count

    def _queue(self, sequences: Sequences) -> None:
        interactive = [sequence for sequence in sequences if not sequence.background]
        if interactive and not self._queued:
            self._start_blocked = False  # the blocked sequence is not the next one any more
        self.waiting.extend(interactive)
        self.background_waiting.extend(each for each in sequences if each.background)

    def _queue_preempted(self, victim: SimulatedSequence) -> None:
        if not victim.background:
            super()._queue_preempted(victim)
            return
        self.statistics.background_preemptions += 1
        insort(self.background_preempted, victim, key=lambda sequence: sequence.arrival)

    def _next_change(self) -> int:
        may_start = self._queued or self._queued_background
        if self._mixed or (may_start and not self._start_blocked and not self._full):
            return self.steps + 1
        return super()._next_change()

    # What interactive sequences take

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

    def _pages_of_others(self) -> int:
        """Pages for the next token of interactive sequences; if none decodes, for a prompt."""
        if self._others:
            both = self._decode_pages.new_pages(self.steps)
            return both - self._background_pages.new_pages(self.steps)
        for sequence in self._prefilling:
            if not sequence.background:
                return int(sequence.computed % self._page_tokens == 0)
        return 0

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

    def _start_fitting(self) -> None:
        """Start interactive sequences; background ones yield to them."""
        while not self._start_blocked and self._queued:
            if self._full and not self.background:
                return
            queue = self.preempted or self.waiting
            sequence = queue[0]
            sequence.reserve_next()
            if not self._make_room(sequence):
                self._start_blocked = True
                return
            del queue[0]
            self._start_sequence(sequence)

    @property
    def _full(self) -> bool:
        return len(self.running) >= self._shape.max_running_sequences

    def _make_room(self, sequence: SimulatedSequence) -> bool:
        """Whether an interactive sequence can start, if necessary in place of background work.

        That yields only if the sequence can then start.
        """
        if not self._full and self._fits(sequence):
            return True
        if not self.running:
            return self._start_alone(sequence)
        if not self._fits_alone(sequence):
            return False
        while self._full or not self._fits(sequence):
            if not self._yield_memory():
                return False
        return True

    def _fits_alone(self, candidate: SimulatedSequence) -> bool:
        """Whether an interactive sequence can start once background work and pins have gone."""
        if not (self.background or self._pinned):
            return False
        others = [each for each in self.running.values() if not each.background]
        if len(others) >= self._shape.max_running_sequences:
            return False
        left = {name: each.without_background() for name, each in self.prefixes.items()}
        freed = sum(self.prefixes[name].retained - kept for name, (kept, _) in left.items())
        freed += sum(
            -(-self._computed(each) // self._page_tokens) - each.prefix_pages
            for each in self.background.values()
        )
        if self.free + freed < (-(-candidate.swapped // self._page_tokens) or 1):
            return False
        shared = {
            each.arrival: min(each.prefix_pages, left[each.prefix.id][1])
            for each in others
            if each.prefix is not None
        }
        if candidate.prefix is not None and candidate.prefix.id in left:
            kept = left[candidate.prefix.id][0]
            candidate.shared_pages = min(kept, self._most_shared(candidate))
        total = sum(pages for _, pages in left.values())
        fits = self.reservations.fit_alone(others, shared, candidate, self.steps, total)
        candidate.shared_pages = 0
        return fits

    def _yield_memory(self) -> bool:
        """Preempt a background sequence, else release a pin; False if there is neither."""
        if not self.background:
            return self._yield_pin()
        victim = self._next_victim()
        if victim is not None:
            self._preempt(victim)
        else:
            self._leave(max(self.background.values(), key=lambda each: each.arrival))
        return True

    def _next_victim(self) -> SimulatedSequence | None:
        """The background sequence with the longest expected remainder that still computes."""
        computing = [each for each in self.running.values() if not self._is_leaving(each)]
        ranked = self._ranked(computing) if self.background else []
        return next(
            (self.background[arrival] for _, arrival in reversed(ranked) if arrival in self.background),
            None,
        )

    def _is_leaving(self, sequence: SimulatedSequence) -> bool:
        return sequence.ended and not sequence.decoding

    def _preempt_where_pages_lack(self) -> None:
        """Preempt until each next token has a page: of interactive sequences, then of all."""
        if self.background or self._pinned:
            while self._pages_of_others() > self.free and self._yield_memory():
                pass
        if self._pages_needed() > self.free:
            self._preempt_for_pages()

    def _pages_needed(self) -> int:
        held = sum(each.computed % self._page_tokens == 0 for each in self.held.values())
        if self.held and not self._decode_pages.count:
            return held
        return super()._pages_needed() + held

    def _preempt_for_pages(self) -> None:
        while self.background and self._pages_needed() > self.free:
            computing = sum(not self._is_leaving(each) for each in self.running.values())
            victim = self._next_victim() if computing > 1 else None
            if victim is None:
                break
            self._preempt(victim)
        if not self.background or self._pages_of_others() > self.free:
            super()._preempt_for_pages()
        while self._pages_needed() > self.free and self._yield_pin():
            pass  # a background sequence that still lacks a page is held

    # What background sequences take

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

    def _start_alone(self, sequence: SimulatedSequence) -> bool:
        """Nothing else runs: pins are released until a sequence fits; then it starts anyway."""
        while not self._fits(sequence) and self._yield_pin():
            pass
        return True

    def _compose_background(self) -> None:
        """Let background sequences have the rest of the step, or what its others allow."""
        others, prompts = self._others, self._prompt_tokens
        allowance = self._allowance() if others or prompts else None
        rows = [each for each in self.background.values() if self._is_row(each)]
        budget = self._shape.step_tokens - others - prompts
        granted = _rows_within(budget, len(rows), prompts=any(p.background for p in self._prefilling))
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

    def _start_sequence(self, sequence: SimulatedSequence) -> None:
        super()._start_sequence(sequence)
        if sequence.background:
            self.background[sequence.arrival] = sequence

    def _release(self, sequence: SimulatedSequence, generated: int) -> None:
        super()._release(sequence, generated)
        self.background.pop(sequence.arrival, None)
        self.held.pop(sequence.arrival, None)

    def _preempt(self, victim: SimulatedSequence) -> None:
        if victim.arrival in self.held:  # as if it decoded, which needs no prompt's place
            del self.held[victim.arrival]
            self._start_decoding(victim)
        elif victim.decoding:
            victim.sampled_step = self.steps
        super()._preempt(victim)

    def _fits(self, candidate: SimulatedSequence) -> bool:
        """Whether all reservations fit; a token that is still sampled counts twice, as there."""
        sampled = candidate.sampled_step == self.steps
        candidate.reserved += sampled
        fits = super()._fits(candidate)
        candidate.reserved -= sampled
        return fits

    def _start_decoding(self, sequence: SimulatedSequence) -> None:
        super()._start_decoding(sequence)
        if sequence.background:
            self._background_pages.add(sequence.length_offset)

    def _stop_decoding(self, sequence: SimulatedSequence) -> None:
        if sequence.background:
            self._background_pages.remove(sequence.length_offset)
        super()._stop_decoding(sequence)


def _rows_within(tokens: int, rows: int, *, prompts: bool) -> int:
    """How many decoding sequences get one of a step's tokens; prompts keep a share."""
    if rows + prompts <= tokens:
        return rows
    return max(0, tokens - (max(1, int(PROMPT_SHARE * tokens)) if prompts else 0))


def _left(sequence: SimulatedSequence) -> int:
    """Prompt tokens not computed yet."""
    return sequence.prompt_tokens + sequence.generated - sequence.computed
