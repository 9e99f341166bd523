"""S³ (arXiv 2306.06000): packs reservations of the predicted length, largest first."""

from collections.abc import Sequence
from typing import Final

from gateway.scheduling.admission.interface import Admission
from gateway.scheduling.baselines.base import FcfsPolicy
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.requests import QueuedRequest

MAX_PACKING_CANDIDATES: Final = 64  # oldest requests considered at once
MAX_PASSES: Final = 128  # requests that pass another one, until no further one may


class S3Policy(FcfsPolicy):
    """Packs the oldest requests into the free memory by first-fit decreasing.

    First-fit alone would pass a large request for ever while smaller ones fit. So once `MAX_PASSES`
    later requests have started before it, no later one starts: memory is kept for it. A dispatch
    starts several at once, so fewer than `MAX_PASSES + MAX_PACKING_CANDIDATES` pass any request.

    Sequences that outgrow their reservation are left to admission and the engine's preemption.
    """

    def __init__(self, *, admission: Admission) -> None:
        super().__init__("s3", admission=admission)
        self._passes: dict[str, int] = {}  # by request: how many later ones started before it

    def dispatch(self, now_s: float) -> Dispatch | None:
        """Those of the oldest requests that fit, tried from the largest reservation down."""
        oldest = self._allowed(self._first(MAX_PACKING_CANDIDATES, now_s))
        decreasing = sorted(oldest, key=self._reserved, reverse=True)
        requests = [request for request in decreasing if self.admission.admit([request])]
        if not requests and oldest and self.admission.empty:
            self.admission.force(oldest[0])
            requests = oldest[:1]
        self._count_passes(oldest, requests)
        return self._started(requests, now_s) if requests else None

    def check(self) -> None:
        """AssertionError if requests and counts disagree."""
        super().check()
        assert self._passes.keys() <= self._serial_of.keys()
        assert all(0 < n < MAX_PASSES + MAX_PACKING_CANDIDATES for n in self._passes.values())

    def _allowed(self, oldest: list[QueuedRequest]) -> list[QueuedRequest]:
        """These requests up to the first one that none may pass any more."""
        for place, request in enumerate(oldest, 1):
            if self._passes.get(request.id, 0) >= MAX_PASSES:
                return oldest[:place]
        return oldest

    def _count_passes(
        self, oldest: Sequence[QueuedRequest], started: Sequence[QueuedRequest]
    ) -> None:
        """Count for those of the oldest that stay how many of the started ones are later."""
        starting, later = {request.id for request in started}, 0
        for request in reversed(oldest):
            if request.id in starting:
                later += 1
            elif later:
                self._passes[request.id] = self._passes.get(request.id, 0) + later

    def _remove(self, requests: Sequence[QueuedRequest]) -> None:
        super()._remove(requests)
        for request in requests:
            self._passes.pop(request.id, None)

    def _reserved(self, request: QueuedRequest) -> int:
        return request.prompt_tokens + self.admission.reserve(request)
