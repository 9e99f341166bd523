"""Chooses the sequences, and the number of tokens of each, for the next step.

Iteration-level batching (Orca, OSDI 2022) with chunked prefill. Memory is reserved by predicted
length, with extension and preemption (S³, arXiv 2306.06000). A step is composed while the previous
one still runs: the token that it samples for a sequence is counted, but its value is not used.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from engine.step.memory import KvMemory, PageCopies
from engine.step.sequence import SequenceState


class Chunk(NamedTuple):
    """Tokens `start` … `start + length - 1` of a sequence, computed in this step.

    `samples_token`: the chunk ends the known tokens, so the next token is sampled after it.
    `carry`: its last token is the one that the previous step samples in this row.
    """

    sequence: SequenceState
    start: int
    length: int
    samples_token: bool
    carry: int | None


class StepPlan(NamedTuple):
    """One step: chunks of a single token first, then longer ones; page copies before it runs.

    `returned`: a lock-step batch that lacks memory and has left the composer.
    """

    chunks: list[Chunk]
    preempted: list[SequenceState]
    copies: PageCopies
    returned: Sequence[SequenceState] = ()


class Composer:
    """Continuous batching: all running sequences decode, then prompts fill the step.

    Sequences with a lower `preempt_first` start first; among equal ones, preempted sequences before
    new ones, in submit order. The first one that does not fit blocks the others, so none starves.
    At most `max_running` sequences run at once, and never more than `step_tokens`, so a prefill
    always has room in the step.
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
        self._to_preempt: list[SequenceState] = []  # before the next step, on request
        self._blocked = False  # the next sequence did not fit, and no memory was freed since

    @property
    def idle(self) -> bool:
        """Whether there is nothing to run."""
        return not (self.running or self.preempted or self.waiting)

    def add(self, sequences: Sequence[SequenceState]) -> None:
        """Queue sequences; prompt and `max_tokens` of each must fit the pool."""
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
        for queue in (self.running, self.preempted, self.waiting):
            if sequence in queue:
                queue.remove(sequence)
        self.memory.release(sequence)
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
        preempted = self._extend_and_preempt()
        self._start()
        return StepPlan(self._fill(), preempted, self.memory.take_copies())

    def compose_one(self, sequence: SequenceState) -> StepPlan:
        """A step of a single sequence; no other may hold memory."""
        if sequence not in self.running:
            (self.preempted if sequence in self.preempted else self.waiting).remove(sequence)
            self.memory.restore(sequence)
            self.running.append(sequence)
        chunks = order_chunks([take_chunk(self.memory, sequence, self.step_tokens)])
        return StepPlan(chunks, [], self.memory.take_copies())

    def release_all(self) -> None:
        """Free the pages of all sequences; all are recomputed, in order of arrival."""
        for sequence in list(self.running):
            self._suspend(sequence, self.memory.release)
        for sequence in self.preempted:
            sequence.in_flight = 0
            if sequence.swapped is not None and sequence.swapped.content is None:
                self.memory.release(sequence)

    def hand_over(self) -> list[SequenceState]:
        """Remove all sequences, for another composer: in order of arrival, without memory."""
        self.release_all()
        sequences = sorted((*self.preempted, *self.waiting), key=lambda s: s.arrival)
        for sequence in sequences:
            self.memory.release(sequence)
        self.preempted.clear()
        self.waiting.clear()
        return sequences

    def check(self) -> None:
        """AssertionError unless pages and queues are consistent."""
        self.memory.check([*self.running, *self.preempted, *self.waiting])
        for sequence in (*self.preempted, *self.waiting):
            assert not sequence.pages, f"{sequence.id} holds pages but does not run"
            assert not sequence.computed, f"{sequence.id} has computed tokens but no pages"

    def _extend_and_preempt(self) -> list[SequenceState]:
        """Double outgrown reservations; preempt until each next token has a page."""
        for sequence in self.running:
            if (
                not sequence.at_max_tokens
                and sequence.generated + sequence.in_flight >= sequence.reserved
            ):
                sequence.reserved = min(
                    2 * (sequence.generated + sequence.in_flight), sequence.max_tokens
                )
                self.extensions += 1
        requested, self._to_preempt = dict.fromkeys(self._to_preempt), []
        preempted = [s for s in requested if s in self.running and not s.at_max_tokens]
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
        """Whether a next token has no page; without decoding sequences, the first prompt."""
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

    def _suspend(self, victim: SequenceState, release: Callable[[SequenceState], None]) -> None:
        self.running.remove(victim)
        release(victim)
        self.preempted.append(victim)
        self.preempted.sort(key=lambda sequence: sequence.arrival)
        self._blocked = False

    def _start(self) -> None:
        """Start sequences that fit, in order; one always runs, if necessary by unpinning.

        Pages reserved for sequences that would be preempted first count as available.
        """
        while len(self.running) < self.max_running and not self._blocked:
            if not (self.preempted or self.waiting):
                return
            sequence = self._next()
            sequence.reserved = max(
                sequence.reserved, min(sequence.generated + 1, sequence.max_tokens)
            )
            competitors = [s for s in self.running if s.preempt_first <= sequence.preempt_first]
            if not self.memory.fits(competitors, sequence):
                if self.running:
                    self._blocked = True
                    return
                self.memory.tree.unpin_all()
            (self.preempted if sequence in self.preempted else self.waiting).remove(sequence)
            self.memory.restore(sequence)
            self.running.append(sequence)

    def _next(self) -> SequenceState:
        """The sequence that starts next; at least one must be preempted or waiting."""
        return min((*self.preempted, *self.waiting), key=lambda sequence: sequence.preempt_first)

    def _fill(self) -> list[Chunk]:
        """The step's chunks; allocates the pages that they write to."""
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
                    self._blocked = False  # the next sequence may share what this one computes
        return order_chunks(chunks)


def _preemption_rank(sequence: SequenceState) -> tuple[int, int, int]:
    """The highest is preempted first."""
    return sequence.preempt_first, sequence.expected_remaining, sequence.arrival


def take_chunk(memory: KvMemory, sequence: SequenceState, max_tokens: int) -> Chunk:
    """Up to `max_tokens` tokens of a sequence, as far as pages allow; counts them as computed."""
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
    """Order chunks for a step and set each sequence's `sample_row`."""
    chunks.sort(key=lambda chunk: chunk.length > 1)
    for row, chunk in enumerate(chunk for chunk in chunks if chunk.samples_token):
        chunk.sequence.sample_row = row
    return chunks
