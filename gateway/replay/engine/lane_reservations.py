"""Reservations of two lanes: interactive sequences start without regard to background ones."""

from collections.abc import Sequence

import numpy as np

from gateway.replay.engine.reservations import Ints, Reservations, spans_fit
from gateway.replay.engine.sequence import SimulatedSequence


class LaneReservations(Reservations):
    """Routes each sequence to the reservations of its lane."""

    def __init__(self, pages: int, page_tokens: int) -> None:
        super().__init__(pages, page_tokens)
        self.sampled: set[int] = set()  # interactive sequences whose prompt the step completes
        self._lanes = Reservations(pages, page_tokens), Reservations(pages, page_tokens)

    def add(self, sequence: SimulatedSequence) -> None:
        """Add the reservation of a sequence that starts."""
        self._lanes[sequence.background].add(sequence)

    def start_decoding(self, sequence: SimulatedSequence) -> None:
        """Add the span of a sequence that starts to decode."""
        self._lanes[sequence.background].start_decoding(sequence)

    def stop_decoding(self, sequence: SimulatedSequence) -> None:
        """Remove the span of a sequence that stops decoding."""
        self._lanes[sequence.background].stop_decoding(sequence)

    def remove(self, sequence: SimulatedSequence, generated: int) -> None:
        """Remove a sequence that decodes no more; its last step had `generated` tokens of it."""
        self._lanes[sequence.background].remove(sequence, generated)

    def extend(self, sequence: SimulatedSequence, generated: int) -> None:
        """Double a reservation until it exceeds `generated`; the last token needs no room."""
        self._lanes[sequence.background].extend(sequence, generated)

    def share(self, sequence: SimulatedSequence, pages: int) -> None:
        """Set the pages that a running sequence shares."""
        self._lanes[sequence.background].share(sequence, pages)

    def can_admit(
        self,
        running: dict[int, SimulatedSequence],
        candidate: SimulatedSequence,
        step: int,
        shared_pages: int = 0,
    ) -> bool:
        """Whether all reservations that do not yield to `candidate` fit if it runs too.

        `shared_pages` of the pool are shared.
        """
        lanes = self._lanes if candidate.background else self._lanes[:1]
        for lane in lanes:
            lane.double_due(step)
        pages = self._pages - shared_pages
        if sum(lane.pages for lane in lanes) + self.last_pages(candidate) <= pages:
            return True
        others = [each for each in running.values() if not each.decoding]
        if not candidate.background:
            interactive = (*(each for each in others if not each.background), candidate)
            return spans_fit(self._lanes[0].spans_with(interactive, step), self._page_tokens, pages)
        return spans_fit(self._all_spans((*others, candidate), step), self._page_tokens, pages)

    def fit_alone(
        self,
        interactive: Sequence[SimulatedSequence],
        shared: dict[int, int],
        candidate: SimulatedSequence,
        step: int,
        shared_pages: int,
    ) -> bool:
        """The same once all background work has left.

        Then sequences share as many pages as `shared` has, by arrival number.
        """
        lane = self._lanes[0]
        lane.double_due(step)
        known = {each.arrival: each.shared_pages for each in interactive}
        try:
            for each in interactive:
                lane.share(each, shared.get(each.arrival, 0))
            return self.can_admit(
                {each.arrival: each for each in interactive}, candidate, step, shared_pages
            )
        finally:
            for each in interactive:
                lane.share(each, known[each.arrival])

    def _all_spans(self, others: Sequence[SimulatedSequence], step: int) -> Ints:
        """The spans of both lanes, when background sequences start: after the others' step.

        That step gives a token to those that decode and to those whose prompt it completes.
        """
        interactive, background = self._lanes
        ahead = [each for each in others if each.arrival in self.sampled]
        rest = [each for each in others if each.arrival not in self.sampled]
        later = interactive.spans_with(ahead, step).copy()
        later[0] = np.maximum(later[0] - 1, step)
        later[1] += 1
        return np.concatenate((later, background.spans_with(rest, step)), axis=1)
