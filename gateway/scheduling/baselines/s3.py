"""S³ (arXiv 2306.06000): packs reservations of the predicted length, largest first."""

from typing import Final

from gateway.scheduling.admission.interface import Admission
from gateway.scheduling.baselines.base import FcfsPolicy
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.requests import QueuedRequest

MAX_PACKING_CANDIDATES: Final = 64  # oldest requests considered at once


class S3Policy(FcfsPolicy):
    """Packs the oldest requests into the free memory by first-fit decreasing.

    Sequences that outgrow their reservation are left to admission and the engine's preemption.
    """

    def __init__(self, *, admission: Admission) -> None:
        super().__init__("s3", admission=admission)

    def dispatch(self, now_s: float) -> Dispatch | None:
        """Those of the oldest requests that fit, tried from the largest reservation down."""
        oldest = self._first(MAX_PACKING_CANDIDATES, now_s)
        decreasing = sorted(oldest, key=self._reserved, reverse=True)
        requests = [request for request in decreasing if self.admission.admit([request])]
        if not requests and oldest and self.admission.empty:
            self.admission.force(oldest[0])
            requests = oldest[:1]
        return self._started(requests, now_s) if requests else None

    def _reserved(self, request: QueuedRequest) -> int:
        return request.prompt_tokens + self.admission.reserve(request)
