"""Which sequences, and how many tokens of each, go into the next step.

Iteration-level batching (Orca, OSDI 2022) with chunked prefill; memory is promised by predicted
length and supervised (S³, arXiv 2306.06000). A step is composed while the one before still runs:
the token that one draws for a sequence is counted as there and not looked at.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from engine.kv.memory import KvMemory, PageCopies
from engine.step.sequence import SequenceState


class Chunk(NamedTuple):
    """Tokens `start` … `start + length - 1` of a sequence, computed in this step.

    The sequence's next token is drawn after it where it `samples_token` the sequence. Where `carry`
    is given its last token is the one the step before draws there.
    """

    sequence: SequenceState
    start: int
    length: int
    samples_token: bool
    carry: int | None


class StepPlan(NamedTuple):
    """One step: chunks of a single token first, then longer ones; what moves before it runs."""

    chunks: list[Chunk]
    preempted: list[SequenceState]
    copies: PageCopies


class Composer:
    """All running sequences decode, then prompts fill the step.

    Sequences with a lower `preempt_first` start first; of one value preempted ones before new
    ones, in submit order. The first that does not fit holds the rest back, so none starves. At most
    `max_running` sequences run at once, and never more than `step_tokens`, hence one that still
    prefills always finds room in the step.
    """

    def __init__(self, memory: KvMemory, step_tokens: int, max_running: int | None = None) -> None:
        self.memory = memory
        self.step_tokens = step_tokens
        self.max_running = min(max_running or step_tokens, step_tokens)
        self.running: list[SequenceState] = []
        self.preempted: list[SequenceState] = []
        self.waiting: deque[SequenceState] = deque()
        self.extensions = 0
        self._finished: list[SequenceState] = []
        self._to_preempt: list[SequenceState] = []  # before the next step, as asked
        self._blocked = False  # the next one does not fit, and no memory was freed since

    @property
    def idle(self) -> bool:
        """Whether there is nothing to run."""
        return not (self.running or self.preempted or self.waiting)

    def add(self, sequences: Sequence[SequenceState]) -> None:
        """Let sequences wait for their turn; prompt and `max_tokens` of each must fit the pool."""
        if self._blocked and min(s.preempt_first for s in sequences) < self._next().preempt_first:
            self._blocked = False  # it was another that does not fit
        self.waiting.extend(sequences)

    def ended(self, sequence: SequenceState) -> None:
        """A sequence got its last token; it leaves at once."""
        self.remove(sequence)
        self._finished.append(sequence)

    def take_finished(self) -> list[SequenceState]:
        """Ended sequences that left since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def remove(self, sequence: SequenceState) -> None:
        """Forget a sequence, wherever it is, and free its memory."""
        for queue in (self.running, self.preempted, self.waiting):
            if sequence in queue:
                queue.remove(sequence)
        self.memory.release(sequence)
        self._blocked = False

    def memory_freed(self) -> None:
        """Memory was freed from outside: look again whether the next sequence fits."""
        self._blocked = False

    def order_changed(self) -> None:
        """Some `preempt_first` changed: look again which sequence is next."""
        self._blocked = False

    def preempt(self, sequences: Sequence[SequenceState]) -> None:
        """Preempt those of the sequences that run, before the next step."""
        self._to_preempt += sequences

    def compose(self) -> StepPlan:
        """The next step; extends, preempts and starts sequences on the way."""
        preempted = self._extend_and_preempt()
        self._start()
        return StepPlan(self._fill(), preempted, self.memory.take_copies())

    def compose_one(self, sequence: SequenceState) -> StepPlan:
        """A step of one sequence alone; nobody else may hold memory."""
        if sequence not in self.running:
            (self.preempted if sequence in self.preempted else self.waiting).remove(sequence)
            self.memory.restore(sequence)
            self.running.append(sequence)
        chunks = order_chunks([take_chunk(self.memory, sequence, self.step_tokens)])
        return StepPlan(chunks, [], self.memory.take_copies())

    def release_all(self) -> None:
        """Take everyone's pages, as if none was ever computed; all resume in order of arrival."""
        for sequence in list(self.running):
            self._suspend(sequence, self.memory.release)
        for sequence in self.preempted:
            sequence.in_flight = 0
            if sequence.swapped is not None and sequence.swapped.content is None:
                self.memory.release(sequence)

    def hand_over(self) -> list[SequenceState]:
        """Hand everyone over to another composer, in order of arrival, without memory."""
        self.release_all()
        sequences = sorted((*self.preempted, *self.waiting), key=lambda s: s.arrival)
        for sequence in sequences:
            self.memory.release(sequence)
        self.preempted.clear()
        self.waiting.clear()
        return sequences

    def check(self) -> None:
        """AssertionError unless pages, promises and queues agree."""
        self.memory.check([*self.running, *self.preempted, *self.waiting])
        for sequence in (*self.preempted, *self.waiting):
            assert not sequence.pages, f"{sequence.id} holds pages but does not run"
            assert not sequence.computed, f"{sequence.id} has computed tokens but no pages"

    def _extend_and_preempt(self) -> list[SequenceState]:
        """Double what was outgrown, and preempt until there are pages for every next token."""
        for sequence in self.running:
            if (
                not sequence.at_max_tokens
                and sequence.generated + sequence.in_flight >= sequence.reserved
            ):
                sequence.reserved = min(
                    2 * (sequence.generated + sequence.in_flight), sequence.max_tokens
                )
                self.extensions += 1
        asked, self._to_preempt = dict.fromkeys(self._to_preempt), []
        preempted = [s for s in asked if s in self.running and not s.at_max_tokens]
        for sequence in preempted:
            self._suspend(sequence, self.memory.swap_out)
        while self._lacks_pages():
            candidates = [s for s in self.running if not s.at_max_tokens]
            if len(candidates) <= 1:
                self.memory.tree.unpin_all()
                break
            victim = max(candidates, key=_preemption_rank)
            self._suspend(victim, self.memory.swap_out)
            preempted.append(victim)
        return preempted

    def _lacks_pages(self) -> bool:
        """Whether a next token, or the first prompt where none decodes, finds no page."""
        if len(self.running) <= self.memory.free:
            return False
        missing, decoding = 0, False
        for sequence in self.running:
            if sequence.uncomputed == 1 and not sequence.at_max_tokens:
                decoding = True
                missing += self.memory.missing(sequence, sequence.length)
        if not decoding:
            first = next((s for s in self.running if s.uncomputed > 1), None)
            missing = self.memory.missing(first, first.computed + 1) if first else 0
        return missing > self.memory.free

    def _suspend(self, victim: SequenceState, take: Callable[[SequenceState], None]) -> None:
        self.running.remove(victim)
        take(victim)
        self.preempted.append(victim)
        self.preempted.sort(key=lambda sequence: sequence.arrival)
        self._blocked = False

    def _start(self) -> None:
        """Start what fits, in order; whoever would run alone fits.

        What is promised to sequences that would be preempted first does not keep one out.
        """
        while len(self.running) < self.max_running and not self._blocked:
            if not (self.preempted or self.waiting):
                return
            sequence = self._next()
            sequence.reserved = max(
                sequence.reserved, min(sequence.generated + 1, sequence.max_tokens)
            )
            rivals = [s for s in self.running if s.preempt_first <= sequence.preempt_first]
            if not self.memory.fits(rivals, sequence):
                if self.running:
                    self._blocked = True
                    return
                self.memory.tree.unpin_all()
            (self.preempted if sequence in self.preempted else self.waiting).remove(sequence)
            self.memory.restore(sequence)
            self.running.append(sequence)

    def _next(self) -> SequenceState:
        """The sequence that starts next; at least one is preempted or waits."""
        return min((*self.preempted, *self.waiting), key=lambda sequence: sequence.preempt_first)

    def _fill(self) -> list[Chunk]:
        """The step's chunks, each with the pages it writes to."""
        ready = [
            s for s in self.running if not s.at_max_tokens and not (s.constraint and s.in_flight)
        ]
        chunks = [
            take_chunk(self.memory, sequence, 1) for sequence in ready if sequence.uncomputed == 1
        ]
        budget = self.step_tokens - len(chunks)
        for sequence in ready:
            if budget > 0 and sequence.uncomputed > 1:
                self.memory.extend_prefix(sequence)
                chunk = take_chunk(self.memory, sequence, budget)
                if chunk.length:
                    chunks.append(chunk)
                    budget -= chunk.length
                    self._blocked = False  # the next one may begin with what this one computes
        return order_chunks(chunks)


def _preemption_rank(sequence: SequenceState) -> tuple[int, int, int]:
    """The highest is preempted first."""
    return sequence.preempt_first, sequence.expected_remaining, sequence.arrival


def take_chunk(memory: KvMemory, sequence: SequenceState, max_tokens: int) -> Chunk:
    """A sequence's next tokens, as many as there is room for; they count as computed now."""
    start, uncomputed = sequence.computed, sequence.uncomputed
    length = memory.grow(sequence, min(uncomputed, max_tokens))
    sequence.computed = start + length
    samples_token = length == uncomputed
    carry = sequence.sample_row if samples_token and sequence.in_flight else None
    sequence.in_flight += samples_token
    if sequence.computed >= memory.pool.page_tokens * (len(sequence.nodes) + 1):
        memory.cache_pages(sequence)
    return Chunk(sequence, start, length, samples_token, carry)


def order_chunks(chunks: list[Chunk]) -> list[Chunk]:
    """The chunks as a step takes them; each sequence learns where its token will be drawn."""
    chunks.sort(key=lambda chunk: chunk.length > 1)
    for queue, chunk in enumerate(chunk for chunk in chunks if chunk.samples_token):
        chunk.sequence.sample_row = queue
    return chunks
