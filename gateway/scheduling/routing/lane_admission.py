"""Admission of the batch lane to several engines, behind the router of the other lane."""

from collections.abc import Sequence
from typing import Final

from gateway.scheduling.admission.future_peak import FuturePeak
from gateway.scheduling.admission.interface import Capacity
from gateway.scheduling.requests import (
    Quantiles,
    QueuedRequest,
    RunningSequence,
    SharedPrefix,
)
from gateway.scheduling.routing.admission import RoutedAdmission

NOTHING_PINNED: Final[Sequence[SharedPrefix]] = ()  # pins are for one engine


class RoutedLaneAdmission(RoutedAdmission):
    """Admits lines of jobs to the best ranked engine that they fit, next to both lanes' sequences.

    The router is that of the policy's admission. That one hears of steps, ends and losses too and
    keeps the router current, so here they change ledgers alone: before they change the router.
    """

    def __init__(self, others: RoutedAdmission) -> None:
        self._peaks = [FuturePeak() for _ in range(others.engines)]
        super().__init__(self._peaks)
        self.router = others.router

    @property
    def pinned(self) -> Sequence[SharedPrefix]:
        """The pinned prefixes: none."""
        return NOTHING_PINNED

    def withhold(self, pages: int) -> None:
        """Keep this many pages free, on each engine in proportion to its size."""
        total = sum(capacity.tokens for capacity in self.capacities)
        for ledger, capacity in zip(self._peaks, self.capacities, strict=True):
            ledger.withhold(round(pages * capacity.tokens / total) if total else pages)

    def resize_engine(self, engine: int, capacity: Capacity) -> None:
        """Set the size of an engine's pool; only memory bounds the lane there."""
        super().resize_engine(engine, Capacity(capacity.pages, capacity.page_tokens))

    def force(self, request: QueuedRequest) -> None:
        """Count an interactive request where it has started; start a line whether it fits or not.

        RuntimeError for a line if no engine is open.
        """
        if request.lane == "batch":
            super().force(request)
            return
        engine = self.router.engine_of(request.id)
        if engine is not None:
            self._ledgers[engine].force(request)

    def assume(self, quantiles: Quantiles | None) -> None:
        """Use these quantiles for every request in the ledgers; None: the predicted ones."""
        for ledger in self._ledgers:
            ledger.assume(quantiles)

    def advance_engine(self, engine: int, steps: int) -> None:
        """An engine has run this number of steps."""
        self._ledgers[engine].advance(steps)
        self._count_refused(engine, steps)

    def leave(self, request_id: str) -> None:
        """A sequence of either lane is about to leave its engine; an unknown id is ignored."""
        engine = self.router.engine_of(request_id)
        if engine is not None:
            self._ledgers[engine].leave(request_id)
            self._changed(engine)

    def lost(self, engine: int) -> None:
        """An engine stopped: it has nothing."""
        self._ledgers[engine].refresh(())
        self._changed(engine)

    def _counted(self, running: Sequence[RunningSequence]) -> Sequence[RunningSequence]:
        return running
