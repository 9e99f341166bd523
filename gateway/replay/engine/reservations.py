"""The generation lengths that memory is promised for, and whether one more can be kept.

The rule of the engine (`engine.kv.reservations`), made fast for many sequences: promises must be
kept in every step to come, a sequence that ends giving back what others still grow into.
"""

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from gateway.replay.engine.sequence import SimulatedSequence

Ints: TypeAlias = npt.NDArray[np.int64]

MANY: Final = 40  # claims, from which numpy is faster


class Claim(NamedTuple):
    """A sequence that has step + `lead` tokens at every step up to `end`, and then leaves."""

    end: int
    lead: int


class Claims:
    """Claims by key, in columns."""

    def __init__(self) -> None:
        self._table = np.zeros((2, 64), np.int64)
        self._keys: list[int] = []
        self._place: dict[int, int] = {}

    def put(self, key: int, end: int, lead: int) -> None:
        """Enter a claim, or change it."""
        place = self._place.get(key)
        if place is None:
            place = self._place[key] = len(self._keys)
            self._keys.append(key)
            self._reach(len(self._keys))
        self._table[0, place] = end
        self._table[1, place] = lead

    def drop(self, key: int) -> None:
        """Forget a claim; the last one fills the gap."""
        place, last = self._place.pop(key), self._keys.pop()
        if last != key:
            self._keys[place] = last
            self._place[last] = place
            self._table[:, place] = self._table[:, len(self._keys)]

    def beside(self, others: Iterable[Claim]) -> Ints:
        """Ends and leads of all, with others that are not entered: (2, claims)."""
        more = list(others)
        count = len(self._keys)
        self._reach(count + len(more))
        for place, claim in enumerate(more, count):
            self._table[:, place] = claim
        return self._table[:, : count + len(more)]

    def _reach(self, count: int) -> None:
        if count > self._table.shape[1]:
            self._table = np.pad(self._table, ((0, 0), (0, count)))


class Reservations:
    """The reservations of running sequences: doubled when outgrown, and up to `max_tokens`.

    Doubling is worked out when somebody asks, for nothing else depends on it.
    """

    def __init__(self, pages: int, page_tokens: int) -> None:
        self.extensions = 0
        self._pages = pages
        self._page_tokens = page_tokens
        self._promised = 0  # pages of all at their promised ends
        self._claims = Claims()  # of those that decode, by arrival
        self._outgrown: list[tuple[int, int, int, SimulatedSequence]] = []

    def add(self, sequence: SimulatedSequence) -> None:
        """A sequence starts: from now on its reservation is kept."""
        self._promised += self._last_pages(sequence)

    def decode(self, sequence: SimulatedSequence) -> None:
        """A sequence decodes from now on."""
        lead = sequence.lead
        end = sequence.reserved + sequence.prompt_tokens - lead
        self._claims.put(sequence.arrival, end, lead)
        if sequence.reserved < sequence.max_tokens:
            heappush(self._outgrown, (end, sequence.arrival, sequence.spell, sequence))

    def halt(self, sequence: SimulatedSequence) -> None:
        """A sequence decodes no more."""
        self._claims.drop(sequence.arrival)

    def remove(self, sequence: SimulatedSequence, generated: int) -> None:
        """A halted sequence leaves; a step was last composed with it at `generated` tokens."""
        self.outgrow(sequence, generated)
        self._promised -= self._last_pages(sequence)

    def outgrow(self, sequence: SimulatedSequence, generated: int) -> None:
        """Double as often as it outgrew what it had; its last token may lie outside."""
        generated = min(generated, sequence.max_tokens - 1)
        while sequence.reserved <= generated:
            self._promised -= self._last_pages(sequence)
            sequence.reserved = min(2 * sequence.reserved, sequence.max_tokens)
            self._promised += self._last_pages(sequence)
            self.extensions += 1

    def keep(
        self, running: dict[int, SimulatedSequence], newcomer: SimulatedSequence, step: int
    ) -> bool:
        """Whether all promises can be kept if one more sequence runs from `step` on."""
        self._double(step)
        if self._promised + self._last_pages(newcomer) <= self._pages:
            return True
        others = [sequence for sequence in running.values() if not sequence.decoding]
        claims = self._claims.beside(_claim(each, step) for each in (*others, newcomer))
        return fit(claims, self._page_tokens, self._pages)

    def _double(self, step: int) -> None:
        outgrown = self._outgrown
        while outgrown and outgrown[0][0] <= step:
            _, _, spell, sequence = heappop(outgrown)
            if sequence.spell == spell:
                self.outgrow(sequence, sequence.generated_at(step))
                self.decode(sequence)

    def _last_pages(self, sequence: SimulatedSequence) -> int:
        return -(-(sequence.prompt_tokens + sequence.reserved) // self._page_tokens)


def fit(claims: Ints, page_tokens: int, pages: int) -> bool:
    """Whether sequences that run now, (2, n) ends and leads, never hold more than `pages`.

    Use only falls where one ends, so that is where to look, the last end first: pages(end + lead)
    summed over those that end no earlier. Whole pages add up; those begun are counted where they
    decide.
    """
    if claims.shape[1] >= MANY:
        return _many_fit(claims, page_tokens, pages)
    rests = [0] * page_tokens
    whole = 0
    for place, (end, lead) in enumerate(sorted(claims.T.tolist(), reverse=True), 1):
        own, rest = divmod(lead + page_tokens - 1, page_tokens)
        whole += own
        rests[rest] += 1
        cycles, more = divmod(end, page_tokens)
        least = whole + place * cycles
        if least > pages:
            return False
        if more and least + place > pages and least + sum(rests[page_tokens - more :]) > pages:
            return False
    return True


def _claim(sequence: SimulatedSequence, step: int) -> Claim:
    """That of a sequence which does not decode yet, or any more: as if it did from now on."""
    remaining = max(sequence.reserved - sequence.generated, 0)
    return Claim(step + remaining, sequence.prompt_tokens + sequence.generated - step)


def _many_fit(claims: Ints, page_tokens: int, pages: int) -> bool:
    ends, leads = claims[:, np.argsort(-claims[0])]
    whole, rests = np.divmod(leads + (page_tokens - 1), page_tokens)
    cycles, more = np.divmod(ends, page_tokens)
    place = np.arange(1, len(ends) + 1)
    least = whole.cumsum() + place * cycles
    if least.max() > pages:
        return False
    if (least + place).max() <= pages:
        return True
    begun = (rests[:, None] >= page_tokens - np.arange(page_tokens)).cumsum(axis=0)
    return bool((least + begun[place - 1, more]).max() <= pages)
