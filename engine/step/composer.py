"""Chooses the sequences, and the number of tokens of each, for the next step.

Iteration-level batching (Orca, OSDI 2022) with chunked prefill. Memory is reserved by predicted
length, with extension and preemption (S³, arXiv 2306.06000). A step is composed while the previous
one still runs: the token that it samples for a sequence is counted, but its value is not used.
"""

from collections import deque
from collections.abc import Callable, Sequence

from engine.kv.pages import PagePool
from engine.step.background import BackgroundWork
from engine.step.chunks import Chunk, StepPlan, decoding_rows, order_chunks, take_chunk
from engine.step.memory import KvMemory, PageCopies
from engine.step.offloaded import OffloadedQueue
from engine.step.sequence import SequenceState


class Composer:
    """Continuous batching: all running sequences decode, then prompts fill the step.

    Sequences with a lower `preempt_first` start first, and so do their prompts; among equal ones,
    preempted sequences before new ones, in submit order. The first one that does not fit blocks the
    others, so none starves. At most `max_running` sequences run at once, background ones not
    counted. If more decode than a step has tokens, they take turns, the longest left out first, and
    prompts keep `PROMPT_SHARE`.

    Of background sequences (`SequenceState.background`) as many run as memory holds and
    `BackgroundWork.most_rows` allows. They are composed last and keep no other out: for one that
    would fit without them they are preempted, then their pins are released. In a step with others
    they get what `background` allows, decoding ones before prompts, in the order they started, so
    that what started first ends first.

    Sequences in host memory have pages and queues of their own, `offloaded`. Their next tokens are
    in each step; their prompts get what those of the others leave.
    """

    def __init__(
        self,
        memory: KvMemory,
        step_tokens: int,
        max_running: int | None = None,
        background_factor: float = 1.1,
        offloaded: OffloadedQueue | None = None,
    ) -> None:
        self.memory = memory
        self.offloaded = offloaded or OffloadedQueue(PagePool(0, memory.pool.page_tokens))
        self.step_tokens = step_tokens
        self.max_running = max_running or step_tokens
        self.background = BackgroundWork(
            step_tokens, memory.pool.page_tokens, background_factor, self.max_running
        )
        self.running: list[SequenceState] = []
        self.preempted: list[SequenceState] = []
        self.waiting: deque[SequenceState] = deque()
        self.extensions = 0
        self._finished: list[SequenceState] = []
        self._to_preempt: list[SequenceState] = []  # before the next step, on request
        self._blocked = False  # the next sequence did not fit, and no memory was freed since
        self._mixed = False  # whether background sequences ran when the step's composition began
        self._turn = 0  # of decoding sequences, if a step cannot hold all

    @property
    def idle(self) -> bool:
        """Whether there is nothing to run."""
        return self.offloaded.idle and not (self.running or self.preempted or self.waiting)

    def add(self, sequences: Sequence[SequenceState]) -> None:
        """Queue sequences; prompt and `max_tokens` of each must fit the pool."""
        on_host = [sequence for sequence in sequences if sequence.on_host]
        if on_host:
            self.offloaded.add(on_host)
            sequences = [sequence for sequence in sequences if not sequence.on_host]
            if not sequences:
                return
        if self._blocked and min(s.preempt_first for s in sequences) < self._next().preempt_first:
            self._blocked = False  # the blocked sequence is not the next one any more
        self.waiting.extend(sequences)

    def ended(self, sequence: SequenceState) -> None:
        """Finish a sequence that got its last token; it leaves at once."""
        self.remove(sequence)
        self._finished.append(sequence)

    def take_finished(self) -> list[SequenceState]:
        """Sequences that finished since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def remove(self, sequence: SequenceState) -> None:
        """Remove a sequence from its queue and free its memory."""
        if sequence.on_host:
            self.offloaded.remove(sequence)
            return
        was_running = sequence in self.running
        for queue in (self.running, self.preempted, self.waiting):
            if sequence in queue:
                queue.remove(sequence)
        self.memory.release(sequence)
        if was_running:
            self._left_memory(sequence)
        else:
            self._blocked = False

    def memory_freed(self) -> None:
        """Check again whether the next sequence fits: memory was freed outside the composer."""
        self._blocked = False

    def order_changed(self) -> None:
        """Check again which sequence is next: a `preempt_first` changed."""
        self._blocked = False

    def preempt(self, sequences: Sequence[SequenceState]) -> None:
        """Preempt the running ones of these sequences before the next step."""
        self._to_preempt += sequences

    def compose(self) -> StepPlan:
        """The next step; extends reservations, preempts and starts sequences."""
        self._mixed = any(sequence.background for sequence in self.running)
        preempted = self._extend_and_preempt()
        self._start(preempted, background=False)
        chunks = self._fill(preempted)
        left = self.step_tokens - sum(chunk.length for chunk in chunks)
        chunks += self.offloaded.compose(left, preempted)
        self._start(preempted, background=True)
        chunks += self._fill_background(chunks)
        return StepPlan(order_chunks(chunks), preempted, self._take_copies())

    def compose_one(self, sequence: SequenceState) -> StepPlan:
        """A step of a single sequence; no other may hold memory."""
        if sequence.on_host:
            if sequence not in self.offloaded.running:
                self.offloaded.start(sequence)
            chunk = self.offloaded.take(sequence, self.step_tokens, [])
            assert chunk is not None, "no other sequence holds its pages"
            return StepPlan(order_chunks([chunk]), [], self._take_copies())
        if sequence not in self.running:
            (self.preempted if sequence in self.preempted else self.waiting).remove(sequence)
            self.memory.restore(sequence)
            self.running.append(sequence)
        chunks = order_chunks([take_chunk(self.memory, sequence, self.step_tokens)])
        return StepPlan(chunks, [], self._take_copies())

    def release_all(self) -> None:
        """Free the pages of all sequences; all are recomputed, in order of arrival."""
        self.offloaded.release_all()
        for sequence in list(self.running):
            self._suspend(sequence, self.memory.release)
        for sequence in self.preempted:
            sequence.in_flight = 0
            if sequence.swapped is not None and sequence.swapped.content is None:
                self.memory.release(sequence)

    def hand_over(self) -> list[SequenceState]:
        """Remove all sequences, for another composer: in order of arrival, without memory."""
        self.release_all()
        self.background.limited_alone = False
        sequences = sorted((*self.preempted, *self.waiting), key=lambda s: s.arrival)
        for sequence in sequences:
            self.memory.release(sequence)
        sequences += self.offloaded.hand_over()
        self.preempted.clear()
        self.waiting.clear()
        self._blocked = False
        return sequences

    def check(self) -> None:
        """AssertionError unless pages and queues are consistent."""
        self.offloaded.check()
        self.memory.check([*self.running, *self.preempted, *self.waiting])
        for sequence in (*self.preempted, *self.waiting):
            assert not sequence.pages, f"{sequence.id} holds pages but does not run"
            assert not sequence.computed, f"{sequence.id} has computed tokens but no pages"

    def _take_copies(self) -> PageCopies:
        """The page operations of the next step."""
        copies = self.memory.take_copies()
        copies.scrub_offloaded += self.offloaded.take_released()
        return copies

    def _extend_and_preempt(self) -> list[SequenceState]:
        """Double outgrown reservations; preempt until each next token has a page."""
        self.extensions += sum(sequence.extend_reservation() for sequence in self.running)
        requested, self._to_preempt = dict.fromkeys(self._to_preempt), []
        preempted = [s for s in requested if s in self.running and not s.at_max_tokens]
        for sequence in preempted:
            self._suspend(sequence, self.memory.swap_out)
        for sequence in requested:
            if sequence in self.offloaded.running and not sequence.at_max_tokens:
                self.offloaded.suspend(sequence)
                preempted.append(sequence)
        self._preempt_for_pages(preempted, background=False)
        if self._mixed:
            self._preempt_for_pages(preempted, background=True)
        return preempted

    def _preempt_for_pages(self, preempted: list[SequenceState], *, background: bool) -> None:
        """Preempt until each next token has a page: of all sequences, or of others than background.

        Pins yield to sequences of a lower `preempt_first`; to others only if nothing else can run.
        """
        while self._lacks_pages(self.running if background else self._others_running):
            candidates = [
                s for s in self.running if not s.at_max_tokens or (s.background and not background)
            ]
            if not candidates:
                return
            victim = max(candidates, key=_preemption_rank)
            above = victim.preempt_first
            if len(candidates) == 1:
                above = -1 if len(self.running) == 1 else above - 1
            if self.memory.tree.yield_pin(above):
                continue
            if len(candidates) == 1:
                return
            self._suspend(victim, self.memory.swap_out)
            preempted.append(victim)

    def _lacks_pages(self, running: list[SequenceState]) -> bool:
        """Whether a next token has no page; without decoding sequences, the first prompt."""
        if len(running) <= self.memory.free:
            return False
        missing, decoding = 0, False
        for sequence in running:
            if sequence.uncomputed == 1 and not sequence.at_max_tokens:
                decoding = True
                missing += self.memory.missing(sequence, sequence.length)
        if not decoding:
            first = next((s for s in running if s.uncomputed > 1), None)
            missing = self.memory.missing(first, first.computed + 1) if first else 0
        return missing > self.memory.free

    def _suspend(self, victim: SequenceState, release: Callable[[SequenceState], None]) -> None:
        self.running.remove(victim)
        release(victim)
        self.preempted.append(victim)
        self.preempted.sort(key=lambda sequence: sequence.arrival)
        self._left_memory(victim)

    def _left_memory(self, sequence: SequenceState) -> None:
        """Check again whether the next sequence fits, unless it never counted this one's memory.

        Once nothing runs, pins yield to any sequence.
        """
        idle = not (self.preempted or self.waiting)
        if idle or not self.running or not sequence.background or self._next().background:
            self._blocked = False

    def _start(self, preempted: list[SequenceState], *, background: bool) -> bool:
        """Start sequences that fit, in order, either background ones or the others.

        One always runs, if necessary by unpinning. Whether any started.
        """
        running = len(self.running)
        while not self._blocked and (self.preempted or self.waiting):
            if self._full(background=background):
                break
            sequence = self._next()
            if sequence.background != background:
                break
            sequence.reserved = max(
                sequence.reserved, min(sequence.generated + 1, sequence.max_tokens)
            )
            if not self._make_room(sequence, preempted):
                self._blocked = True
                break
            (self.preempted if sequence in self.preempted else self.waiting).remove(sequence)
            self.memory.restore(sequence)
            self.running.append(sequence)
        return len(self.running) > running

    def _full(self, *, background: bool) -> bool:
        """Whether no more sequences of a kind may run, whatever the memory holds."""
        running = sum(sequence.background == background for sequence in self.running)
        return running >= (self.background.most_rows if background else self.max_running)

    @property
    def _others_running(self) -> list[SequenceState]:
        if not self._mixed:
            return self.running
        return [sequence for sequence in self.running if not sequence.background]

    @property
    def _background_running(self) -> list[SequenceState]:
        return [sequence for sequence in self.running if sequence.background]

    def _make_room(self, sequence: SequenceState, preempted: list[SequenceState]) -> bool:
        """Whether a sequence can start, if necessary in place of those that yield to it.

        They yield only if it can then start.
        """
        if self._fits(sequence):
            return True
        if not self.running:
            while self.memory.tree.yield_pin() and not self._fits(sequence):
                pass
            return True
        return self._fits_without_background(sequence) and self._drive_out(sequence, preempted)

    def _fits_without_background(self, sequence: SequenceState) -> bool:
        """Whether a sequence can start once all that yields to it has left."""
        yielding = [] if sequence.background else self._background_running
        if not (yielding or self.memory.tree.yielding(sequence.preempt_first)):
            return False
        others = [s for s in self._competitors(sequence) if s not in yielding]
        return self.memory.fits_without(yielding, others, sequence)

    def _drive_out(self, sequence: SequenceState, preempted: list[SequenceState]) -> bool:
        """Make background work yield until a sequence fits; whether it does."""
        while not self._fits(sequence):
            if not self._yield_memory(sequence, preempted):
                return False
        return True

    def _fits(self, sequence: SequenceState) -> bool:
        """Whether a sequence can start now.

        Pages reserved for sequences that would be preempted first count as available.
        """
        return self.memory.fits(self._competitors(sequence), sequence)

    def _competitors(self, sequence: SequenceState) -> list[SequenceState]:
        return [s for s in self.running if s.preempt_first <= sequence.preempt_first]

    def _yield_memory(self, sequence: SequenceState, preempted: list[SequenceState]) -> bool:
        """Preempt one background sequence, else release one pin; False if there is neither."""
        victims = [] if sequence.background else self._background_running
        if not victims:
            return self.memory.tree.yield_pin(sequence.preempt_first)
        victim = max(victims, key=lambda s: (not s.at_max_tokens, _preemption_rank(s)))
        self._suspend(victim, self.memory.swap_out)
        preempted.append(victim)
        return True

    def _next(self) -> SequenceState:
        """The sequence that starts next; at least one must be preempted or waiting."""
        return min((*self.preempted, *self.waiting), key=lambda sequence: sequence.preempt_first)

    def _fill(self, preempted: list[SequenceState]) -> list[Chunk]:
        """The step's chunks but those of background work; allocates the pages that they write."""
        ready = [s for s in self._others_running if s.ready]
        decoding = [s for s in ready if s.uncomputed == 1]
        prompts = sorted((s for s in ready if s.uncomputed > 1), key=lambda s: s.preempt_first)
        limit = self.step_tokens - self._kept_for_background() - self.offloaded.decoding
        rows = decoding_rows(len(decoding), limit, prompts=bool(prompts))
        if rows < len(decoding):
            self._turn += 1
            decoding = sorted(decoding, key=lambda sequence: sequence.last_turn)[:rows]
            for sequence in decoding:
                sequence.last_turn = self._turn
        chunks = []
        for sequence in decoding:
            if self._mixed:
                self._claim_pages(sequence, 1, preempted)
            chunks.append(take_chunk(self.memory, sequence, 1))
        budget = limit - len(chunks)
        for sequence in prompts:
            if budget > 0:
                self.memory.extend_prefix(sequence)
                self._claim_pages(sequence, min(sequence.uncomputed, budget), preempted)
                chunk = take_chunk(self.memory, sequence, budget)
                if chunk.length:
                    chunks.append(chunk)
                    budget -= chunk.length
                    self._blocked = False  # the next sequence may share what this one computes
        return [chunk for chunk in chunks if chunk.length]

    def _claim_pages(
        self, sequence: SequenceState, tokens: int, preempted: list[SequenceState]
    ) -> None:
        """Make background work yield the pages for the next `tokens` tokens of a sequence."""
        while self.memory.missing(sequence, sequence.computed + tokens) > self.memory.free:
            if not self._yield_memory(sequence, preempted):
                return

    def _kept_for_background(self) -> int:
        """Tokens that others leave in a step that must take background work in."""
        if self.background.due and self._background_running:
            return min(self.memory.pool.page_tokens, self.step_tokens // 2)
        return 0

    def _fill_background(self, others: list[Chunk]) -> list[Chunk]:
        """The chunks of background work: all that the step holds, or what its others allow."""
        ready = [s for s in self.running if s.background and s.ready]
        budget = self.step_tokens - sum(chunk.length for chunk in others)
        chunks = self.background.fill(self.memory, ready, budget, others)
        if self.memory.sharing and any(chunk.length > 1 for chunk in chunks):
            self._blocked = False  # the next sequence may share what these compute
        return chunks


def _preemption_rank(sequence: SequenceState) -> tuple[int, int, int]:
    """The highest is preempted first."""
    return sequence.preempt_first, sequence.expected_remaining, sequence.arrival
