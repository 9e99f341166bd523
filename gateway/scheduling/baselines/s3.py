"""S³ (arXiv 2306.06000): memory reserved for the predicted length, filled largest first."""

from typing import Final

from gateway.scheduling.admission.interface import Admission
from gateway.scheduling.baselines.base import PlainPolicy
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.requests import QueuedRequest

WINDOW: Final = 64  # oldest requests that are packed


class S3Policy(PlainPolicy):
    """Packs the oldest requests into the free memory, decreasing first fit.

    What outgrows its reservation is the engine's supervisor's business.
    """

    def __init__(self, *, admission: Admission) -> None:
        super().__init__("s3", admission=admission)

    def dispatch(self, now_s: float) -> Dispatch | None:
        """All of the oldest that fit, tried from the largest reservation down."""
        oldest = self._first(WINDOW, now_s)
        decreasing = sorted(oldest, key=self._reserved, reverse=True)
        requests = [request for request in decreasing if self.admission.admit([request])]
        if not requests and oldest and self.admission.empty:
            self.admission.force(oldest[0])
            requests = oldest[:1]
        return self._started(requests, now_s) if requests else None

    def _reserved(self, request: QueuedRequest) -> int:
        return request.prompt_tokens + self.admission.reserve(request)
