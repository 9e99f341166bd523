"""Fixed batches, first come, first served: what most run today, and Magnus's baseline (VS)."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import ClassVar, Literal

from gateway.scheduling.admission.interface import Admission
from gateway.scheduling.baselines.base import PlainPolicy
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.requests import QueuedRequest, WaitingBatch


class FixedPolicy(PlainPolicy):
    """Batches of the `size` oldest requests; the next starts when the one before has ended.

    Predictions play no part: every request is admitted at its longest, prompt and max_tokens, so
    memory holds whatever comes. An idle engine takes what waits, be it fewer than `size`.
    """

    order: ClassVar[Literal["policy", "arrival"]] = "arrival"

    def __init__(self, size: int, *, admission: Admission) -> None:
        super().__init__("fixed", admission=admission)
        self._size = size

    def dispatch(self, now_s: float) -> Dispatch | None:
        """The next batch; None while anything runs."""
        if not self.admission.empty or not self:
            return None
        requests = self._next(self._first(self._size, now_s))
        for request in requests:
            self.admission.force(request)
        return self._started(requests, now_s, "arrival")

    def waiting(self, now_s: float) -> Sequence[WaitingBatch]:
        """The batches as they would run if nothing more came, in that order."""
        left = self._first(len(self), now_s)
        batches: list[WaitingBatch] = []
        while left:
            requests = self._next(left[: self._size])
            left = left[len(requests) :]
            batches.append(self._shown(f"{self.name} {len(batches) + 1}", requests, now_s))
        return batches

    def _next(self, oldest: Sequence[QueuedRequest]) -> tuple[QueuedRequest, ...]:
        """As many of these as fit at their longest; at least one."""
        capacity = self.admission.capacity
        filled = accumulate(capacity.longest_pages(request) for request in oldest)
        fitting = bisect_right(list(filled), capacity.pages)
        return tuple(oldest[: max(fitting, 1)])
