"""First come, first served; the other orders for comparison derive from it."""

from collections.abc import Sequence
from itertools import count
from typing import ClassVar, Literal

from gateway.scheduling.admission.interface import Admission, Capacity
from gateway.scheduling.dispatch import Dispatch, Reason, dispatch_of, waiting_batch_of
from gateway.scheduling.lazy_heap import LazyHeap
from gateway.scheduling.requests import QueuedRequest, WaitingBatch
from gateway.scheduling.serving_time import ServingTime


class PlainPolicy:
    """Requests in order of arrival, one at a time, as long as the first fits.

    A policy with another order overrides `_first`, `_enter` and `_remove`. All of them trust
    predictions always and keep a maximum queue time; they know no other deadline, no shares and no
    bound on what passes a request.
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
        """Let a request wait. ValueError if one with this id waits already."""
        self._enter(request)
        if request.start_by_s is not None:
            self._expiring.push(request.start_by_s, self._serial_of[request.id])

    def withdraw(self, request_id: str) -> bool:
        """Forget a waiting request; False if it does not wait here."""
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

    def ended(self, request: QueuedRequest, generated: int, now_s: float) -> None:
        """A dispatched request ended: its memory is free."""
        del generated, now_s
        self.admission.leave(request.id)

    def observe(
        self, size: int, prompt_tokens: int, generation_tokens: float, serving_s: float
    ) -> None:
        """Learn a batch's serving time."""
        self._serving.observe(size, prompt_tokens, generation_tokens, serving_s)

    def give_up(self, now_s: float) -> list[QueuedRequest]:
        """Withdraws the requests that have waited for as long as they may."""
        expired = self._expiring.pop_before(now_s)
        self._remove(expired)
        return expired

    def trust(self, trusted: bool) -> None:
        """Nothing changes: these orders trust predictions always."""
        del trusted

    def resize(self, pages: int, page_tokens: int) -> None:
        """Admit to a KV pool of this size from now on; what waits stays."""
        self.admission.resize(Capacity(pages, page_tokens))

    def waiting(self, now_s: float) -> Sequence[WaitingBatch]:
        """Every request as a batch of its own, in order."""
        order = self._first(len(self), now_s)
        return [self._shown(request.id, [request], now_s) for request in order]

    def check(self) -> None:
        """AssertionError where requests and their ids disagree."""
        assert len(self._serial_of) == len(self._requests)
        for request_id, serial in self._serial_of.items():
            assert self._requests[serial].id == request_id

    def _first(self, count: int, now_s: float) -> list[QueuedRequest]:
        """The `count` requests that go next, in order."""
        del now_s
        return self._arrival.first(count)

    def _enter(self, request: QueuedRequest) -> None:
        if request.id in self._serial_of:
            raise ValueError(f"request {request.id} waits already; ids must differ")
        serial = self._serial_of[request.id] = next(self._serials)
        self._requests[serial] = request
        self._arrival.push(request.arrived_s, serial)

    def _remove(self, requests: Sequence[QueuedRequest]) -> None:
        for request in requests:
            del self._requests[self._serial_of.pop(request.id)]

    def _started(
        self, requests: Sequence[QueuedRequest], now_s: float, reason: Reason = "rank"
    ) -> Dispatch:
        """Requests that were admitted wait no more."""
        self._remove(requests)
        serving_s = self._serving.of(requests)
        return dispatch_of(requests, serving_s=serving_s, now_s=now_s, reason=reason)

    def _shown(self, name: str, requests: Sequence[QueuedRequest], now_s: float) -> WaitingBatch:
        """Requests that wait together."""
        serving_s = self._serving.of(requests)
        return waiting_batch_of(name, requests, serving_s=serving_s, now_s=now_s)
