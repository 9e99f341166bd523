"""The sequences in host memory: their pages, their order, and their part of each step."""

from collections.abc import Sequence

from engine.kv.pages import PagePool
from engine.offload.sequence import OffloadedSequence
from engine.step.chunks import Chunk, next_chunk
from engine.step.sequence import SequenceState


class OffloadedQueue:
    """Starts, runs and preempts the sequences in host memory.

    Each reserves the pages of its predicted length, as in S³ (arXiv 2306.06000): one that outgrows
    them gets twice as many, if need be in place of the one that started last. They start in order
    of `preempt_first`, then of arrival; the first that does not fit blocks the others. They share
    no prefixes. A step computes their next tokens, then their prompts, with the tokens that others
    leave of it. At most `max_running` run at once.
    """

    def __init__(self, pool: PagePool, max_running: int = 0) -> None:
        self.pool = pool
        self.max_running = max_running
        self.running: list[SequenceState] = []
        self.waiting: list[SequenceState] = []
        self.released: list[int] = []  # pages with what is not finite, to be zeroed
        self.extensions = 0

    @property
    def idle(self) -> bool:
        """Whether there is nothing to run."""
        return not (self.running or self.waiting)

    @property
    def decoding(self) -> int:
        """How many of them have a next token to compute."""
        return sum(sequence.ready and sequence.uncomputed == 1 for sequence in self.running)

    def add(self, sequences: Sequence[SequenceState]) -> None:
        """Queue sequences; prompt and `max_tokens` of each must fit the pool."""
        self.waiting += sequences
        self.waiting.sort(key=_start_rank)

    def remove(self, sequence: SequenceState) -> None:
        """Remove a sequence and free its pages."""
        for queue in (self.running, self.waiting):
            if sequence in queue:
                queue.remove(sequence)
        self.release(sequence)

    def release(self, sequence: SequenceState) -> None:
        """Free the pages of a sequence: it is computed again."""
        self.pool.release(sequence.pages)
        sequence.pages = []
        sequence.computed = 0
        sequence.offloaded = None

    def release_invalid(self, sequence: SequenceState) -> None:
        """Free a sequence whose keys or values are not finite; its pages are zeroed."""
        self.released += sequence.pages
        self.release(sequence)

    def take_released(self) -> list[int]:
        """Take the pages that are zeroed before the next step."""
        released, self.released = self.released, []
        return released

    def suspend(self, sequence: SequenceState) -> None:
        """Preempt a running sequence: it waits again."""
        self.running.remove(sequence)
        self.release(sequence)
        self.add([sequence])

    def release_all(self) -> None:
        """Free the pages of all sequences, whose step in flight is lost."""
        for sequence in list(self.running):
            self.suspend(sequence)
        for sequence in self.waiting:
            sequence.in_flight = 0

    def hand_over(self) -> list[SequenceState]:
        """Remove all sequences, without memory."""
        self.release_all()
        sequences, self.waiting = self.waiting, []
        return sequences

    def compose(self, tokens: int, preempted: list[SequenceState]) -> list[Chunk]:
        """Their part of a step, at most `tokens` tokens; adds whom it preempts to `preempted`."""
        self._start()
        chunks: list[Chunk] = []
        # Those with a next token first, then prompts, in the order in which they started.
        for sequence in sorted(self.running, key=lambda s: s.uncomputed > 1):
            if sequence not in self.running or not sequence.ready or tokens <= 0:
                continue
            self.extensions += sequence.extend_reservation()
            chunk = self.take(sequence, tokens, preempted, chunks)
            if chunk is not None:
                chunks.append(chunk)
                tokens -= chunk.length
        return chunks

    def take(
        self,
        sequence: SequenceState,
        tokens: int,
        preempted: list[SequenceState],
        taken: Sequence[Chunk] = (),
    ) -> Chunk | None:
        """Up to `tokens` tokens of a running sequence; None if it was preempted for another.

        For its pages, those that started last are preempted, but none of the step's `taken` chunks.
        """
        length = min(sequence.uncomputed, tokens)
        needed = self.pool.pages_for(sequence.computed + length) - len(sequence.pages)
        in_step = [chunk.sequence for chunk in taken]
        while needed > self.pool.free:
            victims = [s for s in self.running if s not in in_step and not s.at_max_tokens]
            victim = victims[-1]  # the sequence itself if no other is left
            self.suspend(victim)
            preempted.append(victim)
            if victim is sequence:
                return None
        if needed > 0:
            sequence.pages += self.pool.allocate(needed)
        return next_chunk(sequence, length)

    def start(self, sequence: SequenceState) -> None:
        """Let a waiting sequence run."""
        self.waiting.remove(sequence)
        sequence.offloaded = OffloadedSequence(sequence.memory == "host-speculative")
        sequence.reused = sequence.reused or 0
        self.running.append(sequence)

    def check(self) -> None:
        """AssertionError unless each page is free or owned by a single running sequence."""
        self.pool.check([sequence.pages for sequence in self.running])
        for sequence in self.waiting:
            assert not sequence.pages, f"{sequence.id} holds pages but does not run"
            assert not sequence.computed, f"{sequence.id} has computed tokens but no pages"

    def _start(self) -> None:
        """Start the sequences whose reservations fit; one always runs."""
        while self.waiting:
            sequence = self.waiting[0]
            reserved = sum(map(self._reserved, self.running)) + self._reserved(sequence)
            full = len(self.running) >= self.max_running or reserved > self.pool.size
            if self.running and full:
                return
            self.start(sequence)

    def _reserved(self, sequence: SequenceState) -> int:
        """Pages that a sequence holds at the end of its reservation."""
        generated = max(sequence.reserved, sequence.generated + sequence.in_flight + 1)
        return self.pool.pages_for(sequence.prompt_tokens + min(generated, sequence.max_tokens))


def _start_rank(sequence: SequenceState) -> tuple[int, int]:
    """The lowest starts first."""
    return sequence.preempt_first, sequence.arrival
