"""Batches of a fixed size, first come, first served: Magnus's baseline VS (arXiv 2406.04785)."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import ClassVar, Literal

from gateway.scheduling.admission.interface import Admission
from gateway.scheduling.baselines.base import FcfsPolicy
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.requests import QueuedRequest, WaitingBatch


class FixedPolicy(FcfsPolicy):
    """Batches of the `size` oldest requests; the next starts when the previous one has ended.

    It ignores predictions: each request is admitted at its maximum length, prompt and max_tokens,
    so a batch never outgrows the memory. An idle engine starts a batch of fewer than `size`.
    """

    order: ClassVar[Literal["policy", "arrival"]] = "arrival"

    def __init__(self, size: int, *, admission: Admission) -> None:
        super().__init__("fixed", admission=admission)
        self._size = size

    def dispatch(self, now_s: float) -> Dispatch | None:
        """The next batch; None while anything runs."""
        if not self.admission.empty or not self:
            return None
        requests = self._fitting(self._first(self._size, now_s))
        for request in requests:
            self.admission.force(request)
        return self._started(requests, now_s, "arrival")

    def waiting(self, now_s: float) -> Sequence[WaitingBatch]:
        """The batches in the order in which they would start if nothing more arrived."""
        left = self._first(len(self), now_s)
        batches: list[WaitingBatch] = []
        while left:
            requests = self._fitting(left[: self._size])
            left = left[len(requests) :]
            batches.append(self._waiting_batch(f"{self.name} {len(batches) + 1}", requests, now_s))
        return batches

    def _fitting(self, oldest: Sequence[QueuedRequest]) -> tuple[QueuedRequest, ...]:
        """As many of these as fit at their maximum length; at least one."""
        capacity = self.admission.capacity
        filled = accumulate(capacity.max_pages(request) for request in oldest)
        fitting = bisect_right(list(filled), capacity.pages)
        return tuple(oldest[: max(fitting, 1)])
