"""Static batching in lock step, the setting of Magnus (arXiv 2406.04785), to measure its cost.

A batch starts when nothing else runs. Prompts are padded to the longest, ended answers are computed
on, and all leave together when the last has ended, so the memory wasted on padding and waiting is
really read. When pages run out, the ended answers leave and the other sequences are returned to the
gateway, which splits and orders them. So is a batch for which there are not enough pages at its
start. A sequence alone in its batch is not padded and always fits.
"""

from collections import deque
from collections.abc import Sequence

from engine.step.chunks import Chunk, StepPlan, order_chunks, take_chunk
from engine.step.memory import KvMemory
from engine.step.sequence import SequenceState

PAD_ID = 0  # any valid token id: padding is invisible


class LockstepComposer:
    """Runs one submitted batch after another; replaces a `Composer`."""

    def __init__(self, memory: KvMemory, step_tokens: int) -> None:
        self.memory = memory
        self.step_tokens = step_tokens
        self.running: list[SequenceState] = []
        self.batches: deque[list[SequenceState]] = deque()
        self.preempted: list[SequenceState] = []  # always empty: a batch is returned instead
        self.extensions = 0
        self._ended: list[SequenceState] = []  # ended sequences of the running batch
        self._finished: list[SequenceState] = []

    @property
    def idle(self) -> bool:
        """Whether there is nothing to run."""
        return not (self.running or self.batches)

    @property
    def waiting(self) -> list[SequenceState]:
        """Sequences of batches that have not started or must start again."""
        return [sequence for batch in self.batches for sequence in batch]

    def add(self, sequences: Sequence[SequenceState]) -> None:
        """Queue a batch."""
        self.batches.append(list(sequences))

    def ended(self, sequence: SequenceState) -> None:
        """Mark a sequence as ended; the batch finishes when all its sequences have ended."""
        if sequence not in self.running:
            self.remove(sequence)
            self._finished.append(sequence)
            return
        self._ended.append(sequence)
        if len(self._ended) == len(self.running):
            self._end_batch()

    def take_finished(self) -> list[SequenceState]:
        """Sequences that finished since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def remove(self, sequence: SequenceState) -> None:
        """Remove a sequence from its batch and free its memory."""
        for queue in (self.running, self._ended, *self.batches):
            if sequence in queue:
                queue.remove(sequence)
        self.batches = deque(batch for batch in self.batches if batch)
        self.memory.release(sequence)
        if self.running and len(self._ended) == len(self.running):
            self._end_batch()

    def memory_freed(self) -> None:
        """Do nothing: no sequence is blocked on memory."""

    def order_changed(self) -> None:
        """Batches start in the order in which they were submitted."""

    def preempt(self, sequences: Sequence[SequenceState]) -> None:
        """Ignored: a batch runs as a whole."""

    def compose(self) -> StepPlan:
        """The next step of the running batch, or the first step of the next batch.

        A batch that lacks pages runs no step: first the step in flight is awaited, whose tokens may
        end it; then it is returned.
        """
        if not self.running and self.batches:
            self._begin(self.batches.popleft())
        if not self._lacks_pages():
            return StepPlan(self._fill(), [], self.memory.take_copies())
        awaited = any(sequence.in_flight for sequence in self.running)
        returned = [] if awaited else self._end_batch()
        return StepPlan([], [], self.memory.take_copies(), returned)

    def compose_one(self, sequence: SequenceState) -> StepPlan:
        """A step of a single sequence; no other may hold memory."""
        if sequence not in self.running:
            self.remove(sequence)
            self.running.append(sequence)
        chunks = order_chunks([take_chunk(self.memory, sequence, self.step_tokens)])
        return StepPlan(chunks, [], self.memory.take_copies())

    def release_all(self) -> None:
        """Free the pages of all sequences; the running batch starts again, before the others."""
        unfinished = self._end_batch()
        if unfinished:
            self.batches.appendleft(unfinished)
        for sequence in self.waiting:
            sequence.in_flight = 0

    def hand_over(self) -> list[SequenceState]:
        """Remove all sequences, for another composer: in order of arrival, without memory."""
        self.release_all()
        sequences = sorted(self.waiting, key=lambda sequence: sequence.arrival)
        self.batches.clear()
        return sequences

    def check(self) -> None:
        """AssertionError unless pages and queues are consistent."""
        self.memory.check([*self.running, *self.waiting])
        for sequence in self.waiting:
            assert not sequence.pages, f"{sequence.id} holds pages but does not run"
            assert not sequence.padding, f"{sequence.id} is padded but does not run"

    def _begin(self, batch: list[SequenceState]) -> None:
        """Start a batch: pad it to its longest sequence."""
        length = max(sequence.length for sequence in batch)
        for sequence in batch:
            sequence.padding = length - sequence.length
            sequence.tokens = [PAD_ID] * sequence.padding + sequence.tokens
        self.running = batch

    def _end_batch(self) -> list[SequenceState]:
        """End the running batch and free its memory; the sequences that have not ended."""
        unfinished = [sequence for sequence in self.running if sequence not in self._ended]
        for sequence in self.running:
            sequence.tokens = sequence.tokens[sequence.padding :]
            sequence.padding = 0
            self.memory.release(sequence)
        self._finished += self._ended
        self.running, self._ended = [], []
        return unfinished

    def _lacks_pages(self) -> bool:
        """Whether the running batch lacks pages, even without pinned ones if it is one sequence."""
        while self._missing() > self.memory.free:
            if len(self.running) != 1 or not self.memory.tree.yield_pin():
                return True
        return False

    def _missing(self) -> int:
        """The number of pages that the running batch lacks for its next token."""
        return sum(
            self.memory.missing(sequence, sequence.length + (sequence.uncomputed > 1))
            for sequence in self.running
        )

    def _fill(self) -> list[Chunk]:
        """Prompt chunks within the step's budget; after the prompts, one token per sequence."""
        budget, chunks = self.step_tokens, []
        for sequence in self.running:
            if budget > 0 and sequence.uncomputed > 1:
                chunks.append(take_chunk(self.memory, sequence, budget))
                budget -= chunks[-1].length
        if not chunks:
            chunks = [self._decode_one(sequence) for sequence in self.running]
        return order_chunks(chunks)

    def _decode_one(self, sequence: SequenceState) -> Chunk:
        """One more token; an ended answer keeps its position, to stay within the context."""
        sequence.padding += sequence.done
        return take_chunk(self.memory, sequence, 1)
