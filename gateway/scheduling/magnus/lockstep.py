"""What the policies for an engine in lock step share: one whole batch at a time."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from gateway.scheduling.baselines.base import FcfsPolicy
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.requests import QueuedRequest


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
        """A batch of two or more requests ran out of memory: queue it again as two halves."""

    @abstractmethod
    def _next_batch(self, now_s: float) -> Sequence[QueuedRequest]:
        """The batch that is next; at least one request is queued."""


def halves_of(
    requests: Sequence[QueuedRequest],
) -> tuple[Sequence[QueuedRequest], Sequence[QueuedRequest]]:
    """A batch that ran out of memory, in two halves. ValueError if it has fewer than two members.

    The second half is the larger one if they differ.
    """
    if len(requests) < 2:  # noqa: PLR2004
        raise ValueError("only two or more requests can be halved")
    middle = len(requests) // 2
    return requests[:middle], requests[middle:]
