"""The ids of accepted sequences, so that none runs twice."""

from collections.abc import Iterable
from typing import Final

from engine.protocol import SequenceId

MAX_FINISHED_IDS: Final = 65_536


class SeenIds:
    """Ids of all unfinished and the most recently finished or returned sequences."""

    def __init__(self, max_finished: int = MAX_FINISHED_IDS) -> None:
        self._max_finished = max_finished
        self._unfinished: set[SequenceId] = set()
        self._finished: dict[SequenceId, None] = {}  # in the order they finished

    def __contains__(self, sequence_id: SequenceId) -> bool:
        return sequence_id in self._unfinished or sequence_id in self._finished

    def add(self, sequence_id: SequenceId) -> None:
        """Record an accepted sequence."""
        self._unfinished.add(sequence_id)

    def finish(self, sequence_ids: Iterable[SequenceId]) -> None:
        """Mark these as finished; keep the ids of the last `max_finished`."""
        for sequence_id in sequence_ids:
            if sequence_id in self._unfinished:
                self._unfinished.remove(sequence_id)
                self._finished[sequence_id] = None
        while len(self._finished) > self._max_finished:
            del self._finished[next(iter(self._finished))]

    def clear(self) -> None:
        """Remove all ids."""
        self._unfinished.clear()
        self._finished.clear()
