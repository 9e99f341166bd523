"""The memory of two lanes in a simulated engine: background sequences yield theirs.

Interactive sequences start, and get pages for their next tokens, as if there were no background
work: it is preempted one by one, then its pins are released.
"""

from bisect import insort
from collections import deque

from gateway.replay.cost.model import EngineModel
from gateway.replay.engine.base import Sequences
from gateway.replay.engine.decode_pages import DecodePages
from gateway.replay.engine.lane_reservations import LaneReservations
from gateway.replay.engine.pinning import PinningEngine
from gateway.replay.engine.sequence import SimulatedSequence


class LaneMemoryEngine(PinningEngine):
    """Queues and memory of both lanes; subclasses compose the steps.

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
        self._most_background = model.most_background

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

    def _pages_of_others(self) -> int:
        """Pages for the next token of interactive sequences; if none decodes, for a prompt."""
        if self._others:
            both = self._decode_pages.new_pages(self.steps)
            return both - self._background_pages.new_pages(self.steps)
        for sequence in self._prefilling:
            if not sequence.background:
                return int(sequence.computed % self._page_tokens == 0)
        return 0

    def _start_fitting(self) -> None:
        """Start interactive sequences; background ones yield to them."""
        while not self._start_blocked and self._queued and not self._full:
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
        """Whether no more sequences of the lane whose turn it is may run, whatever fits."""
        if self._queued:
            interactive = len(self.running) - len(self.background)
            return interactive >= self._shape.max_interactive_sequences
        return len(self.background) >= self._most_background

    def _make_room(self, sequence: SimulatedSequence) -> bool:
        """Whether an interactive sequence can start, if necessary in place of background work.

        That yields only if the sequence can then start.
        """
        if self._fits(sequence):
            return True
        if not self.running:
            return self._start_alone(sequence)
        if not self._fits_alone(sequence):
            return False
        while not self._fits(sequence):
            if not self._yield_memory():
                return False
        return True

    def _fits_alone(self, candidate: SimulatedSequence) -> bool:
        """Whether an interactive sequence can start once background work and pins have gone."""
        if not (self.background or self._pinned):
            return False
        others = [each for each in self.running.values() if not each.background]
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

    def _start_alone(self, sequence: SimulatedSequence) -> bool:
        """Nothing else runs: pins are released until a sequence fits; then it starts anyway."""
        while not self._fits(sequence) and self._yield_pin():
            pass
        return True

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
            (
                self.background[arrival]
                for _, arrival in reversed(ranked)
                if arrival in self.background
            ),
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

    def _start_sequence(self, sequence: SimulatedSequence) -> None:
        super()._start_sequence(sequence)
        if sequence.background:
            self.background[sequence.arrival] = sequence

    def _release(self, sequence: SimulatedSequence, generated: int) -> None:
        blocked = self._start_blocked and sequence.background and self._queued
        super()._release(sequence, generated)
        self._start_blocked = blocked  # what waits counted on the memory of background work
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
