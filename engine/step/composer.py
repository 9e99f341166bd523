"""Which sequences, and how many tokens of each, go into the next step.

Iteration-level batching (Orca, OSDI 2022) with chunked prefill; memory is promised by predicted
length and supervised (S³, arXiv 2306.06000). A step is composed while the one before still runs:
the token that one draws for a sequence is counted as there and not looked at.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from engine.kv.memory import Copies, KvMemory
from engine.step.sequence import LiveSequence


class Chunk(NamedTuple):
    """Tokens `start` … `start + length - 1` of a sequence, computed in this step.

    The sequence's next token is drawn after it where it `completes` the sequence. Where `carry`
    is given its last token is the one the step before draws there.
    """

    sequence: LiveSequence
    start: int
    length: int
    completes: bool
    carry: int | None


class Plan(NamedTuple):
    """One step: chunks of a single token first, then longer ones; what moves before it runs."""

    chunks: list[Chunk]
    preempted: list[LiveSequence]
    copies: Copies


class Composer:
    """All running sequences decode, then prompts fill the step.

    Sequences start in submit order, preempted ones before new ones; the first that does not fit
    holds the rest back, so none starves. At most `step_tokens` sequences run at once, hence one
    that still prefills always finds room in the step.
    """

    def __init__(self, memory: KvMemory, step_tokens: int) -> None:
        self.memory = memory
        self.step_tokens = step_tokens
        self.running: list[LiveSequence] = []
        self.preempted: list[LiveSequence] = []
        self.waiting: deque[LiveSequence] = deque()
        self.extensions = 0
        self._leavers: list[LiveSequence] = []
        self._full = False  # the next one does not fit, and no memory was freed since

    @property
    def idle(self) -> bool:
        """Whether there is nothing to run."""
        return not (self.running or self.preempted or self.waiting)

    def add(self, sequences: Sequence[LiveSequence]) -> None:
        """Let sequences wait for their turn; prompt and `max_tokens` of each must fit the pool."""
        self.waiting.extend(sequences)

    def ended(self, sequence: LiveSequence) -> None:
        """A sequence got its last token; it leaves at once."""
        self.remove(sequence)
        self._leavers.append(sequence)

    def take_leavers(self) -> list[LiveSequence]:
        """Ended sequences that left since the last call."""
        leavers, self._leavers = self._leavers, []
        return leavers

    def remove(self, sequence: LiveSequence) -> None:
        """Forget a sequence, wherever it is, and free its memory."""
        for place in (self.running, self.preempted, self.waiting):
            if sequence in place:
                place.remove(sequence)
        self.memory.release(sequence)
        self._full = False

    def reconsider(self) -> None:
        """Memory was freed from outside: look again whether the next sequence fits."""
        self._full = False

    def compose(self) -> Plan:
        """The next step; extends, preempts and starts sequences on the way."""
        preempted = self._supervise()
        self._start()
        return Plan(self._fill(), preempted, self.memory.take_copies())

    def compose_one(self, sequence: LiveSequence) -> Plan:
        """A step of one sequence alone; nobody else may hold memory."""
        if sequence not in self.running:
            (self.preempted if sequence in self.preempted else self.waiting).remove(sequence)
            self.memory.begin(sequence)
            self.running.append(sequence)
        chunks = in_order([take_chunk(self.memory, sequence, self.step_tokens)])
        return Plan(chunks, [], self.memory.take_copies())

    def evacuate(self) -> None:
        """Take everyone's pages, as if none was ever computed; all resume in order of arrival."""
        for sequence in list(self.running):
            self._suspend(sequence, self.memory.release)
        for sequence in self.preempted:
            sequence.ahead = 0
            if sequence.swapped is not None and sequence.swapped.content is None:
                self.memory.release(sequence)

    def disband(self) -> list[LiveSequence]:
        """Hand everyone over to another composer, in order of arrival, without memory."""
        self.evacuate()
        everyone = sorted((*self.preempted, *self.waiting), key=lambda s: s.arrival)
        for sequence in everyone:
            self.memory.release(sequence)
        self.preempted.clear()
        self.waiting.clear()
        return everyone

    def check(self) -> None:
        """AssertionError unless pages, promises and queues agree."""
        self.memory.check([*self.running, *self.preempted, *self.waiting])
        for sequence in (*self.preempted, *self.waiting):
            assert not sequence.pages, f"{sequence.id} holds pages but does not run"
            assert not sequence.computed, f"{sequence.id} has computed tokens but no pages"

    def _supervise(self) -> list[LiveSequence]:
        """Double what was outgrown, and preempt until there are pages for every next token."""
        for sequence in self.running:
            if not sequence.complete and sequence.generated + sequence.ahead >= sequence.reserved:
                sequence.reserved = min(
                    2 * (sequence.generated + sequence.ahead), sequence.max_tokens
                )
                self.extensions += 1
        preempted: list[LiveSequence] = []
        while self._lacks_pages():
            candidates = [s for s in self.running if not s.complete]
            if len(candidates) <= 1:
                self.memory.tree.unpin_all()
                break
            victim = max(candidates, key=lambda s: (s.remainder, s.arrival))
            self._suspend(victim, self.memory.swap_out)
            preempted.append(victim)
        return preempted

    def _lacks_pages(self) -> bool:
        """Whether a next token, or the first prompt where none decodes, finds no page."""
        if len(self.running) <= self.memory.free:
            return False
        missing, decoding = 0, False
        for sequence in self.running:
            if sequence.pending == 1 and not sequence.complete:
                decoding = True
                missing += self.memory.missing(sequence, sequence.length)
        if not decoding:
            first = next((s for s in self.running if s.pending > 1), None)
            missing = self.memory.missing(first, first.computed + 1) if first else 0
        return missing > self.memory.free

    def _suspend(self, victim: LiveSequence, take: Callable[[LiveSequence], None]) -> None:
        self.running.remove(victim)
        take(victim)
        self.preempted.append(victim)
        self.preempted.sort(key=lambda sequence: sequence.arrival)
        self._full = False

    def _start(self) -> None:
        """Start what fits, in order; whoever would run alone fits."""
        while len(self.running) < self.step_tokens and not self._full:
            queue = self.preempted or self.waiting
            if not queue:
                return
            sequence = queue[0]
            sequence.reserved = max(
                sequence.reserved, min(sequence.generated + 1, sequence.max_tokens)
            )
            if not self.memory.fits(self.running, sequence):
                if self.running:
                    self._full = True
                    return
                self.memory.tree.unpin_all()
            del queue[0]
            self.memory.begin(sequence)
            self.running.append(sequence)

    def _fill(self) -> list[Chunk]:
        """The step's chunks, each with the pages it writes to."""
        ready = [s for s in self.running if not s.complete and not (s.constraint and s.ahead)]
        chunks = [
            take_chunk(self.memory, sequence, 1) for sequence in ready if sequence.pending == 1
        ]
        budget = self.step_tokens - len(chunks)
        for sequence in ready:
            if budget > 0 and sequence.pending > 1:
                self.memory.adopt(sequence)
                chunk = take_chunk(self.memory, sequence, budget)
                if chunk.length:
                    chunks.append(chunk)
                    budget -= chunk.length
                    self._full = False  # the next one may begin with what this one computes
        return in_order(chunks)


def take_chunk(memory: KvMemory, sequence: LiveSequence, most: int) -> Chunk:
    """A sequence's next tokens, as many as there is room for; they count as computed now."""
    start, pending = sequence.computed, sequence.pending
    length = memory.grow(sequence, min(pending, most))
    sequence.computed = start + length
    completes = length == pending
    carry = sequence.drawn if completes and sequence.ahead else None
    sequence.ahead += completes
    if sequence.computed >= memory.pool.page_tokens * (len(sequence.nodes) + 1):
        memory.list_pages(sequence)
    return Chunk(sequence, start, length, completes, carry)


def in_order(chunks: list[Chunk]) -> list[Chunk]:
    """The chunks as a step takes them; each sequence learns where its token will be drawn."""
    chunks.sort(key=lambda chunk: chunk.length > 1)
    for place, chunk in enumerate(chunk for chunk in chunks if chunk.completes):
        chunk.sequence.drawn = place
    return chunks
