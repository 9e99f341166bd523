"""First come, first served; the other policies for comparison derive from it."""

from collections.abc import Iterator, Sequence
from itertools import count, islice
from typing import ClassVar, Literal

from gateway.scheduling.admission.interface import Admission, Capacity
from gateway.scheduling.dispatch import Dispatch, DispatchReason, dispatch_of, waiting_batch_of
from gateway.scheduling.lazy_heap import LazyHeap
from gateway.scheduling.requests import QueuedRequest, WaitingBatch
from gateway.scheduling.serving_time import ServingTime


class FcfsPolicy:
    """Requests in order of arrival, one at a time, while the first fits.

    A policy with another order overrides `_ordered`, `_enter`, `_replace` and `_remove`. All of
    them always trust predictions and enforce the maximum queue time; they have no other deadline,
    no shares and no bound on how long a request is held back.
    """

    lockstep: ClassVar = False
    order: ClassVar[Literal["policy", "arrival"]] = "policy"

    def __init__(self, name: str, *, admission: Admission) -> None:
        self.name = name
        self.admission = admission
        self._serving = ServingTime()
        self._serials = count()
        self._serial_of: dict[str, int] = {}
        self._requests: dict[int, QueuedRequest] = {}
        self._arrival: LazyHeap[float, QueuedRequest] = LazyHeap(self._requests)
        self._expiring: LazyHeap[float, QueuedRequest] = LazyHeap(self._requests)

    def __len__(self) -> int:
        return len(self._requests)

    def arrive(self, request: QueuedRequest) -> None:
        """Queue a request. ValueError if one with this id is queued already."""
        self._enter(request)
        if request.start_by_s is not None:
            self._expiring.push(request.start_by_s, self._serial_of[request.id])

    def revise(self, requests: Sequence[QueuedRequest]) -> None:
        """Take queued requests as if they had arrived with these predictions."""
        for request in requests:
            serial = self._serial_of.get(request.id)
            if serial is not None:
                self._replace(serial, request)

    def withdraw(self, request_id: str) -> bool:
        """Remove a queued request; False if it is not queued here."""
        serial = self._serial_of.get(request_id)
        if serial is None:
            return False
        self._remove([self._requests[serial]])
        return True

    def dispatch(self, now_s: float) -> Dispatch | None:
        """The first request if it fits, or if nothing runs."""
        first = self._first(1, now_s)
        if not first:
            return None
        if not self.admission.admit(first):
            if not self.admission.empty:
                return None
            self.admission.force(first[0])
        return self._started(first, now_s)

    def head(self, now_s: float) -> QueuedRequest | None:
        """The first request; None if nothing is queued."""
        return next(iter(self._first(1, now_s)), None)

    def start_head(self, now_s: float) -> Dispatch:
        """Start the first request without memory of the device."""
        return self._started(self._first(1, now_s), now_s)

    def ended(self, request: QueuedRequest, generated: int, now_s: float) -> None:
        """A dispatched request ended: release its memory."""
        del generated, now_s
        self.admission.leave(request.id)

    def observe(
        self, size: int, prompt_tokens: int, generation_tokens: float, serving_s: float
    ) -> None:
        """Learn the serving time of a batch."""
        self._serving.observe(size, prompt_tokens, generation_tokens, serving_s)

    def give_up(self, now_s: float) -> list[QueuedRequest]:
        """Remove and return the requests whose maximum queue time has passed."""
        expired = self._expiring.pop_before(now_s)
        self._remove(expired)
        return expired

    def trust(self, trusted: bool) -> None:
        """Ignored: these policies always trust predictions."""
        del trusted

    def resize(self, pages: int, page_tokens: int, max_running: int | None = None) -> None:
        """Set the size of the KV pool; queued requests stay."""
        self.admission.resize(Capacity(pages, page_tokens, max_running))

    def waiting(self, now_s: float) -> Iterator[WaitingBatch]:
        """Each request as a batch of one, in order."""
        for request in self._ordered(now_s):
            yield self._waiting_batch(request.id, [request], now_s)

    @property
    def batches(self) -> int:
        """Number of queued batches."""
        return len(self)

    def check(self) -> None:
        """AssertionError if requests and ids disagree."""
        assert len(self._serial_of) == len(self._requests)
        for request_id, serial in self._serial_of.items():
            assert self._requests[serial].id == request_id

    def _first(self, count: int, now_s: float) -> list[QueuedRequest]:
        """The next `count` requests, in order."""
        return [*islice(self._ordered(now_s), count)]

    def _ordered(self, now_s: float) -> Iterator[QueuedRequest]:
        """The queued requests in order; change nothing meanwhile."""
        del now_s
        return iter(self._arrival)

    def _enter(self, request: QueuedRequest) -> None:
        if request.id in self._serial_of:
            raise ValueError(f"request {request.id} waits already; ids must differ")
        serial = self._serial_of[request.id] = next(self._serials)
        self._requests[serial] = request
        self._arrival.push(request.arrived_s, serial)

    def _replace(self, serial: int, request: QueuedRequest) -> None:
        """Queue a request in the place of the one with the same id, which has this serial."""
        self._requests[serial] = request

    def _remove(self, requests: Sequence[QueuedRequest]) -> None:
        for request in requests:
            del self._requests[self._serial_of.pop(request.id)]

    def _serving_s(self, requests: Sequence[QueuedRequest]) -> float:
        """S of requests that start together, in seconds."""
        return self._serving.of(requests)

    def _started(
        self, requests: Sequence[QueuedRequest], now_s: float, reason: DispatchReason = "rank"
    ) -> Dispatch:
        """Dispatch admitted requests: remove them from the queue."""
        self._remove(requests)
        serving_s = self._serving_s(requests)
        return dispatch_of(requests, serving_s=serving_s, now_s=now_s, reason=reason)

    def _waiting_batch(
        self, name: str, requests: Sequence[QueuedRequest], now_s: float
    ) -> WaitingBatch:
        """Requests queued together."""
        serving_s = self._serving_s(requests)
        return waiting_batch_of(name, requests, serving_s=serving_s, now_s=now_s)
