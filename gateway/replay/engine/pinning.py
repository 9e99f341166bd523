"""Pinned prefixes in a simulated engine: their pages stay although no sequence reads them."""

from abc import abstractmethod
from math import inf

from gateway.replay.cost.model import EngineModel
from gateway.replay.engine.base import Sequences
from gateway.replay.engine.prefix_pages import PrefixPages
from gateway.replay.engine.sharing import SharingEngine
from gateway.scheduling.requests import SharedPrefix


class PinningEngine(SharingEngine):
    """Shared prefixes and pins, by the rules of the engine's prefix tree.

    All pins take at most a share of the pool, the pages to come included.
    """

    def __init__(self, model: EngineModel) -> None:
        super().__init__(model)
        self._max_pinned = int(model.shape.pin_share * model.shape.pages)
        self._pinned: dict[str, PrefixPages] = {}
        self._pinned_pages = 0
        self._lost_pins: dict[str, None] = {}  # in order, until they are reported

    def take_lost_pins(self) -> list[str]:
        """The ids of prefixes whose pins were released for lack of memory, or not made."""
        lost = list(self._lost_pins)
        self._lost_pins.clear()
        return lost

    def check(self) -> None:
        """AssertionError unless each page is counted once; for tests."""
        super().check()
        assert all(prefix.pinned for prefix in self._pinned.values())
        pages = sum(prefix.pages for prefix in self._pinned.values())
        assert pages == self._pinned_pages <= self._max_pinned

    def _receive(self, step: float) -> None:
        """Take what was submitted by a step: pins are made before sequences start."""
        for submission in self._submissions.take_each(step):
            for name in submission.unpins:
                self._unpin(name)
                self._start_blocked = False
            for prefix in submission.pins:
                self._pin(prefix)
            self._queue(submission.sequences)

    @abstractmethod
    def _queue(self, sequences: Sequences) -> None:
        """Queue sequences that were submitted."""

    def _drain_leaving(self) -> None:
        for _, sequence in self._leaving:
            self._leave(sequence)
        self._leaving.clear()
        self._receive(inf)

    def _preempt_for_pages(self) -> None:
        self._preempt_longest()
        while self._pages_needed() > self.free and self._yield_pin():
            pass
        if self._pages_needed() > self.free:
            self._drain_leaving()

    def _pin(self, prefix: SharedPrefix) -> None:
        found = self._prefix(prefix)
        self._clock += 1
        found.used = self._clock
        if found.pinned:
            return
        if self._pinned_pages + found.pages > self._max_pinned:
            self._lose(prefix.id)
            return
        unread = found.unread
        found.pinned = True
        self._pinned[prefix.id] = found
        self._pinned_pages += found.pages
        self._settle_prefix(found, unread)

    def _unpin(self, name: str) -> None:
        found = self._pinned.pop(name, None)
        if found is not None:
            unread = found.unread
            found.pinned = False
            self._pinned_pages -= found.pages
            self._settle_prefix(found, unread)

    def _yield_pin(self) -> bool:
        """Release a pin for lack of memory, an unread one first, the least recently used of these.

        False if there is none.
        """
        if not self._pinned:
            return False
        name = min(self._pinned, key=self._release_order)
        self._unpin(name)
        self._lose(name)
        return True

    def _release_order(self, name: str) -> tuple[bool, int]:
        prefix = self._pinned[name]
        return prefix.most_read()[0] == prefix.present > 0, prefix.used

    def _lose(self, name: str) -> None:
        self._lost_pins[name] = None
        self.statistics.pins_lost += 1
