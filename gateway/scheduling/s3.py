"""S³ (arXiv 2306.06000): memory reserved for the predicted length, filled largest first."""

from collections.abc import Iterator, Sequence
from typing import Final

from gateway.scheduling.admission import Admission
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.oldest_first import OldestFirst
from gateway.scheduling.waiting import Waiting, WaitingBatch

WINDOW: Final = 64  # oldest requests that are packed


class S3Policy(OldestFirst):
    """Packs the oldest requests into the free memory, decreasing first fit.

    What outgrows its reservation is the engine's supervisor's business.
    """

    def __init__(self, *, admission: Admission, ids: Iterator[str]) -> None:
        super().__init__("s3", admission=admission, ids=ids)

    def dispatch(self, now_s: float) -> Dispatch | None:
        """All of the oldest that fit, tried from the largest reservation down."""
        first = self._arrivals.first(WINDOW)
        oldest = [request for request in first if request.model == first[0].model]
        decreasing = sorted(oldest, key=self._reserved, reverse=True)
        requests = [request for request in decreasing if self.admission.admit([request])]
        if not requests and oldest and self.admission.empty:
            self.admission.force(oldest[0])
            requests = oldest[:1]
        for request in requests:
            self.withdraw(request.id)
        return self._dispatch(requests, now_s) if requests else None

    def waiting(self, now_s: float) -> Sequence[WaitingBatch]:
        """Every request as a batch of its own, oldest first."""
        oldest = self._arrivals.first(len(self._arrivals))
        return [self._shown(request.id, [request], now_s) for request in oldest]

    def _reserved(self, request: Waiting) -> int:
        return request.prompt_tokens + self.admission.reserve(request)
