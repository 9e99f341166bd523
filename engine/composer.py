"""Which sequences, and how many tokens of each, go into the next step.

Each running sequence has pages promised for its reservation; the promises never exceed the pool,
so a page is always there when a token needs it (supervised reservations: S³, arXiv 2306.06000).
"""

from collections import deque
from typing import NamedTuple

from engine.kv.pages import PagePool
from engine.sequence import LiveSequence


class Chunk(NamedTuple):
    """Tokens `start` … `start + length - 1` of a sequence, computed in this step."""

    sequence: LiveSequence
    start: int
    length: int

    @property
    def completes(self) -> bool:
        """Whether the sequence's next token can be drawn after it."""
        return self.start + self.length == len(self.sequence.tokens)


class Plan(NamedTuple):
    """One step: chunks of a single token first, then longer ones."""

    chunks: list[Chunk]
    preempted: list[LiveSequence]


class Composer:
    """Iteration-level batching: all running sequences decode, then prompts fill the step.

    Sequences start in submit order, preempted ones before new ones; the first that does not fit
    holds the rest back, so none starves. At most `step_tokens` sequences run at once, hence one
    that still prefills always finds room in the step.
    """

    def __init__(self, pool: PagePool, step_tokens: int) -> None:
        self.pool = pool
        self.step_tokens = step_tokens
        self.running: list[LiveSequence] = []
        self.preempted: list[LiveSequence] = []
        self.waiting: deque[LiveSequence] = deque()
        self.extensions = 0

    @property
    def idle(self) -> bool:
        """Whether there is nothing to run."""
        return not (self.running or self.preempted or self.waiting)

    def promised(self, sequence: LiveSequence) -> int:
        """Pages promised to a sequence: for its reservation, and never fewer than it holds."""
        reservation = self.pool.pages_for(sequence.prompt_tokens + sequence.reserved)
        return max(reservation, len(sequence.pages))

    def unpromised(self) -> int:
        """Pages promised to no running sequence."""
        return self.pool.size - sum(map(self.promised, self.running))

    def add(self, sequence: LiveSequence) -> None:
        """Let a sequence wait for its turn; prompt and `max_tokens` together must fit the pool."""
        self.waiting.append(sequence)

    def remove(self, sequence: LiveSequence) -> None:
        """Forget a sequence, wherever it is, and free its pages."""
        for place in (self.running, self.preempted, self.waiting):
            if sequence in place:
                place.remove(sequence)
        self._free(sequence)

    def clear(self) -> None:
        """Forget every sequence."""
        for sequence in [*self.running, *self.preempted, *self.waiting]:
            self.remove(sequence)

    def compose(self) -> Plan:
        """The next step; extends, preempts and starts sequences on the way."""
        preempted = self._extend_all()
        self._start()
        return Plan(self._fill(), preempted)

    def check(self) -> None:
        """AssertionError unless pages, promises and queues agree."""
        self.pool.check(sequence.pages for sequence in self.running)
        assert self.unpromised() >= 0, "more pages are promised than there are"
        for sequence in (*self.preempted, *self.waiting):
            assert not sequence.pages, f"{sequence.id} holds pages but does not run"
            assert not sequence.computed, f"{sequence.id} has computed tokens but no pages"

    def _extend_all(self) -> list[LiveSequence]:
        """Extend every sequence that outgrows its promise; whoever was preempted for that."""
        preempted: list[LiveSequence] = []
        for sequence in list(self.running):
            needed = self.pool.pages_for(len(sequence.tokens))
            if sequence not in preempted and needed > self.promised(sequence):
                preempted += self._extend(sequence)
        return preempted

    def _extend(self, sequence: LiveSequence) -> list[LiveSequence]:
        """Double a reservation, or raise it by what is left; at worst preempt one sequence.

        The victim is the longest remainder, the latest of equals; it may be the sequence itself,
        which then resumes with its doubled reservation.
        """
        self.extensions += 1
        unpromised = self.unpromised()
        promised = self.promised(sequence)
        sequence.reserved = min(2 * sequence.generated, sequence.max_tokens)
        victims = []
        if unpromised == 0:
            victim = max(self.running, key=lambda other: (other.remainder, other.arrival))
            unpromised = self.promised(victim)
            self._preempt(victim)
            victims.append(victim)
        if sequence not in victims:
            room = (promised + unpromised) * self.pool.page_tokens - sequence.prompt_tokens
            sequence.reserved = min(sequence.reserved, room)
        return victims

    def _preempt(self, victim: LiveSequence) -> None:
        """Take a sequence's pages; it resumes by computing prompt and generated tokens again."""
        self.running.remove(victim)
        self._free(victim)
        self.preempted.append(victim)
        self.preempted.sort(key=lambda sequence: sequence.arrival)

    def _free(self, sequence: LiveSequence) -> None:
        self.pool.give_back(sequence.pages)
        sequence.pages.clear()
        sequence.computed = 0

    def _start(self) -> None:
        """Start what fits, in order: what it has generated and one more is promised at least."""
        while len(self.running) < self.step_tokens and (self.preempted or self.waiting):
            sequence = self.preempted[0] if self.preempted else self.waiting[0]
            sequence.reserved = max(sequence.reserved, sequence.generated + 1)
            if self.promised(sequence) > self.unpromised():
                return
            if self.preempted:
                self.preempted.pop(0)
            else:
                self.waiting.popleft()
            self.running.append(sequence)

    def _fill(self) -> list[Chunk]:
        """The step's chunks, each with the pages it writes to."""
        decoding = [sequence for sequence in self.running if sequence.pending == 1]
        chunks = [self._chunk(sequence, 1) for sequence in decoding]
        budget = self.step_tokens - len(chunks)
        for sequence in self.running:
            if budget > 0 and sequence.pending > 1:
                chunks.append(self._chunk(sequence, min(sequence.pending, budget)))
                budget -= chunks[-1].length
        return sorted(chunks, key=lambda chunk: chunk.length > 1)

    def _chunk(self, sequence: LiveSequence, length: int) -> Chunk:
        needed = self.pool.pages_for(sequence.computed + length)
        sequence.pages += self.pool.take(needed - len(sequence.pages))
        return Chunk(sequence, sequence.computed, length)
