"""What the policies for an engine in lock step share: one whole batch at a time."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, TypeVar

from gateway.scheduling.baselines.base import FcfsPolicy
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.requests import QueuedRequest

T = TypeVar("T")


class WholeBatchPolicy(FcfsPolicy, ABC):
    """Starts a whole batch when the previous one has ended; admission cannot make it smaller.

    It waits for no further requests: an idle engine starts at once, with those that are queued. A
    batch that runs out of memory comes back by `halve`.
    """

    lockstep: ClassVar = True

    def dispatch(self, now_s: float) -> Dispatch | None:
        """The next batch; None while anything runs."""
        if not self or not self.admission.empty:
            return None
        requests = self._next_batch(now_s)
        for request in requests:
            self.admission.force(request)
        return self._started(requests, now_s)

    @abstractmethod
    def halve(self, requests: Sequence[QueuedRequest]) -> None:
        """Queue what is left of a batch that ran out of memory again, as two closed halves."""

    def _serving_s(self, requests: Sequence[QueuedRequest]) -> float:
        """S of a batch, which lasts until its longest answer has ended: so by 0.9 quantiles."""
        return self._serving.estimate(
            len(requests),
            max(request.prompt_tokens for request in requests),
            max(request.p90 for request in requests),
        )

    @abstractmethod
    def _next_batch(self, now_s: float) -> Sequence[QueuedRequest]:
        """The batch that is next; at least one request is queued."""


def halves_of(batch: Sequence[T]) -> list[Sequence[T]]:
    """A batch that ran out of memory, in two halves, the second of which may be larger by one.

    A single member is one batch: alone, without padding, it fits.
    """
    middle = len(batch) // 2
    return [half for half in (batch[:middle], batch[middle:]) if half]
