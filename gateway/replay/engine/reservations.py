"""The generation lengths that memory is reserved for, and whether one more sequence fits.

The engine's rule (`engine.kv.reservations`), vectorised for many sequences: the reserved pages must
fit the pool in every future step; pages of a sequence that ends by then are available to others.
"""

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gateway.replay.engine.sequence import SimulatedSequence

Ints: TypeAlias = npt.NDArray[np.int64]

MIN_SPANS_FOR_NUMPY: Final = 40  # below, plain Python is faster


class ReservedSpan(NamedTuple):
    """A sequence with step + `length_offset` tokens in every step up to `end`, where it leaves."""

    end: int
    length_offset: int


class ReservedSpanTable:
    """Reserved spans by key, in columns."""

    def __init__(self) -> None:
        self._table = np.zeros((2, 64), np.int64)
        self._keys: list[int] = []
        self._columns: dict[int, int] = {}

    def put(self, key: int, end: int, length_offset: int) -> None:
        """Insert or replace a span."""
        index = self._columns.get(key)
        if index is None:
            index = self._columns[key] = len(self._keys)
            self._keys.append(key)
            self._ensure_capacity(len(self._keys))
        self._table[0, index] = end
        self._table[1, index] = length_offset

    def move(self, key: int, length_offset: int) -> None:
        """Change a span's length offset."""
        self._table[1, self._columns[key]] = length_offset

    def drop(self, key: int) -> None:
        """Remove a span; the last one moves to its column."""
        index, last = self._columns.pop(key), self._keys.pop()
        if last != key:
            self._keys[index] = last
            self._columns[last] = index
            self._table[:, index] = self._table[:, len(self._keys)]

    def with_others(self, others: Iterable[ReservedSpan]) -> Ints:
        """Ends and length offsets of all spans and of `others`, which are not inserted: (2, n)."""
        more = list(others)
        count = len(self._keys)
        self._ensure_capacity(count + len(more))
        for index, span in enumerate(more, count):
            self._table[:, index] = span
        return self._table[:, : count + len(more)]

    def _ensure_capacity(self, count: int) -> None:
        if count > self._table.shape[1]:
            self._table = np.pad(self._table, ((0, 0), (0, count)))


class Reservations:
    """The reservations of running sequences; doubled when exceeded, up to `max_tokens`.

    Doubling is computed lazily, in `can_admit`, because nothing else depends on it. Pages that a
    sequence shares are not reserved for it.
    """

    def __init__(self, pages: int, page_tokens: int) -> None:
        self.extensions = 0
        self._pages = pages
        self._page_tokens = page_tokens
        self.pages = 0  # of all sequences, at their reserved lengths
        self._spans = ReservedSpanTable()  # of decoding sequences, by arrival number
        self._doublings: list[tuple[int, int, int, SimulatedSequence]] = []

    def add(self, sequence: SimulatedSequence) -> None:
        """Add the reservation of a sequence that starts."""
        self.pages += self.last_pages(sequence)

    def start_decoding(self, sequence: SimulatedSequence) -> None:
        """Add the span of a sequence that starts to decode."""
        length_offset = sequence.length_offset
        end = sequence.reserved + sequence.prompt_tokens - length_offset
        own_offset = length_offset - sequence.shared_pages * self._page_tokens
        self._spans.put(sequence.arrival, end, own_offset)
        if sequence.reserved < sequence.max_tokens:
            heappush(self._doublings, (end, sequence.arrival, sequence.epoch, sequence))

    def stop_decoding(self, sequence: SimulatedSequence) -> None:
        """Remove the span of a sequence that stops decoding."""
        self._spans.drop(sequence.arrival)

    def remove(self, sequence: SimulatedSequence, generated: int) -> None:
        """Remove a sequence that decodes no more; its last step had `generated` tokens of it."""
        self.extend(sequence, generated)
        self.pages -= self.last_pages(sequence)

    def extend(self, sequence: SimulatedSequence, generated: int) -> None:
        """Double a reservation until it exceeds `generated`; the last token needs no room."""
        generated = min(generated, sequence.max_tokens - 1)
        while sequence.reserved <= generated:
            self.pages -= self.last_pages(sequence)
            sequence.reserved = min(2 * sequence.reserved, sequence.max_tokens)
            self.pages += self.last_pages(sequence)
            self.extensions += 1

    def share(self, sequence: SimulatedSequence, pages: int) -> None:
        """Set the pages that a running sequence shares."""
        if pages == sequence.shared_pages:
            return
        self.pages -= pages - sequence.shared_pages
        sequence.shared_pages = pages
        if sequence.decoding:
            own_offset = sequence.length_offset - pages * self._page_tokens
            self._spans.move(sequence.arrival, own_offset)

    def can_admit(
        self,
        running: dict[int, SimulatedSequence],
        candidate: SimulatedSequence,
        step: int,
        shared_pages: int = 0,
    ) -> bool:
        """Whether all reservations fit if `candidate` runs too, from `step` on.

        `shared_pages` of the pool are shared.
        """
        self.double_due(step)
        pages = self._pages - shared_pages
        if self.pages + self.last_pages(candidate) <= pages:
            return True
        others = [sequence for sequence in running.values() if not sequence.decoding]
        spans = self.spans_with((*others, candidate), step)
        return spans_fit(spans, self._page_tokens, pages)

    def spans_with(self, others: Iterable[SimulatedSequence], step: int) -> Ints:
        """The spans of decoding sequences, and of others that do not decode: (2, n)."""
        return self._spans.with_others(self._span(each, step) for each in others)

    def double_due(self, step: int) -> None:
        """Double what is outgrown by `step`."""
        doublings = self._doublings
        while doublings and doublings[0][0] <= step:
            _, _, epoch, sequence = heappop(doublings)
            if sequence.epoch == epoch:
                self.extend(sequence, sequence.generated_at(step))
                self.start_decoding(sequence)

    def last_pages(self, sequence: SimulatedSequence) -> int:
        """Pages of its own that a sequence holds at its reserved length."""
        pages = -(-(sequence.prompt_tokens + sequence.reserved) // self._page_tokens)
        return pages - sequence.shared_pages

    def _span(self, sequence: SimulatedSequence, step: int) -> ReservedSpan:
        """The span of a sequence that is not decoding, as if it decoded from `step` on."""
        remaining = max(sequence.reserved - sequence.generated, 0)
        tokens = sequence.prompt_tokens + sequence.generated
        own_tokens = tokens - sequence.shared_pages * self._page_tokens
        return ReservedSpan(step + remaining, own_tokens - step)


def spans_fit(spans: Ints, page_tokens: int, pages: int) -> bool:
    """Whether sequences that run now never hold more than `pages`; spans are (2, n).

    The number of pages in use has its peaks at the ends of spans. At each end, latest first, it is
    the sum of pages(end + length_offset) over the spans that end no earlier. Whole pages are summed
    directly; partly filled ones are counted only if they decide the answer.
    """
    if spans.shape[1] >= MIN_SPANS_FOR_NUMPY:
        return _spans_fit_numpy(spans, page_tokens, pages)
    rests = [0] * page_tokens  # spans by remainder
    offset_pages = 0
    for count, (end, length_offset) in enumerate(sorted(spans.T.tolist(), reverse=True), 1):
        own, rest = divmod(length_offset + page_tokens - 1, page_tokens)
        offset_pages += own
        rests[rest] += 1
        cycles, more = divmod(end, page_tokens)
        whole = offset_pages + count * cycles
        if whole > pages:
            return False
        if more and whole + count > pages and whole + sum(rests[page_tokens - more :]) > pages:
            return False
    return True


def _spans_fit_numpy(spans: Ints, page_tokens: int, pages: int) -> bool:
    ends, length_offsets = spans[:, np.argsort(-spans[0])]
    offset_pages, rests = np.divmod(length_offsets + (page_tokens - 1), page_tokens)
    cycles, more = np.divmod(ends, page_tokens)
    count = np.arange(1, len(ends) + 1)
    whole = offset_pages.cumsum() + count * cycles
    if whole.max() > pages:
        return False
    if (whole + count).max() <= pages:
        return True
    partly = (rests[:, None] >= page_tokens - np.arange(page_tokens)).cumsum(axis=0)
    return bool((whole + partly[count - 1, more]).max() <= pages)
