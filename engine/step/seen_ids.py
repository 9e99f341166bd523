"""Which sequences the engine has taken, so that none is run twice."""

from collections.abc import Iterable
from typing import Final

from engine.protocol import SequenceId

MAX_FINISHED_IDS: Final = 65_536


class SeenIds:
    """Ids of every unfinished sequence and of the most recently finished ones."""

    def __init__(self, max_finished: int = MAX_FINISHED_IDS) -> None:
        self._max_finished = max_finished
        self._unfinished: set[SequenceId] = set()
        self._finished: dict[SequenceId, None] = {}  # in the order they finished

    def __contains__(self, name: SequenceId) -> bool:
        return name in self._unfinished or name in self._finished

    def add(self, name: SequenceId) -> None:
        """A sequence was taken."""
        self._unfinished.add(name)

    def finish(self, names: Iterable[SequenceId]) -> None:
        """These ended; the oldest finished ones are forgotten beyond what is remembered."""
        for name in names:
            if name in self._unfinished:
                self._unfinished.remove(name)
                self._finished[name] = None
        while len(self._finished) > self._max_finished:
            del self._finished[next(iter(self._finished))]

    def clear(self) -> None:
        """Forget all of them."""
        self._unfinished.clear()
        self._finished.clear()
