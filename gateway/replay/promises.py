"""The generation lengths that memory is promised for, and whether one more can be kept."""

from heapq import heappop, heappush

from gateway.replay.claims import Claim, Claims, fit
from gateway.replay.sequence import SimulatedSequence


class Promises:
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


def _claim(sequence: SimulatedSequence, step: int) -> Claim:
    """That of a sequence which does not decode yet, or any more: as if it did from now on."""
    remaining = max(sequence.reserved - sequence.generated, 0)
    return Claim(step + remaining, sequence.prompt_tokens + sequence.generated - step)
