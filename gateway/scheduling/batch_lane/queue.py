"""The queue of the batch lane: fair between tenants, in order of arrival within one."""

from collections import deque
from collections.abc import Sequence
from itertools import count, islice

from gateway.scheduling.lazy_heap import LazyHeap
from gateway.scheduling.lmaas.fair_share import FairShare
from gateway.scheduling.requests import QueuedRequest


class BatchQueue:
    """Requests by tenant; the tenant served fewest tokens for its share is next.

    Before them come halves of lock-step batches that ran out of memory: those had started.
    """

    def __init__(self) -> None:
        self.shares = FairShare()
        self.halves: deque[list[QueuedRequest]] = deque()
        self._serials = count()
        self._requests: dict[str, QueuedRequest] = {}
        self._serial_of: dict[str, int] = {}
        self._tenants: dict[str, dict[int, QueuedRequest]] = {}
        self._order: dict[str, LazyHeap[float, QueuedRequest]] = {}
        self._expiring: dict[int, QueuedRequest] = {}
        self._limits: LazyHeap[float, QueuedRequest] = LazyHeap(self._expiring)

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._requests

    def add(self, request: QueuedRequest) -> None:
        """Queue a request. ValueError if one with this id is queued already."""
        if request.id in self._requests:
            raise ValueError(f"request {request.id} waits already; ids must differ")
        serial = next(self._serials)
        if request.tenant not in self._tenants:
            queue = self._tenants[request.tenant] = {}
            self._order[request.tenant] = LazyHeap(queue)
            self.shares.enter(request.tenant)
        self._requests[request.id] = request
        self._serial_of[request.id] = serial
        self._tenants[request.tenant][serial] = request
        self._order[request.tenant].push(request.arrived_s, serial)
        limits = [limit for limit in (request.start_by_s, request.deadline_s) if limit is not None]
        if limits:
            self._expiring[serial] = request
            self._limits.push(min(limits), serial)

    def add_half(self, requests: Sequence[QueuedRequest]) -> None:
        """Queue a half of a batch in front of all others; it starts together."""
        self.halves.append(list(requests))
        self._requests.update({request.id: request for request in requests})

    def replace(self, request: QueuedRequest) -> bool:
        """Queue a request in the place of the one with the same id; False if none is queued.

        Order and time limits are those of its arrival, which predictions do not change.
        """
        before = self._requests.get(request.id)
        if before is None:
            return False
        self._requests[request.id] = request
        serial = self._serial_of.get(request.id)
        if serial is None:
            half = next(half for half in self.halves if before in half)
            half[half.index(before)] = request
            return True
        self._tenants[request.tenant][serial] = request
        if serial in self._expiring:
            self._expiring[serial] = request
        return True

    def remove(self, request_id: str) -> bool:
        """Remove a request that started or was withdrawn; False if it is not queued."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return False
        serial = self._serial_of.pop(request_id, None)
        if serial is None:
            kept = [[each for each in half if each.id != request_id] for half in self.halves]
            self.halves = deque(half for half in kept if half)
            return True
        queue = self._tenants[request.tenant]
        del queue[serial]
        self._expiring.pop(serial, None)
        if not queue:
            del self._tenants[request.tenant], self._order[request.tenant]
            self.shares.leave(request.tenant)
        return True

    def next(self, most: int) -> list[QueuedRequest]:
        """The next requests in order, at most `most`: a half, or those of one tenant."""
        if self.halves:
            return self.halves[0][:most]
        tenant = self.shares.lowest()
        return [] if tenant is None else self._order[tenant].first(most)

    def expired(self, now_s: float) -> list[QueuedRequest]:
        """Remove and return the requests whose start or deadline is in the past."""
        expired = self._limits.pop_before(now_s)
        for request in expired:
            self.remove(request.id)
        return expired

    def ordered(self) -> list[list[QueuedRequest]]:
        """All requests: halves, then by tenant, the next tenant first."""
        tenants = [
            self._order[tenant].first(len(self._tenants[tenant]))
            for tenant in self.shares.lowest_first()
        ]
        return [*(list(half) for half in self.halves), *tenants]

    def check(self) -> None:
        """AssertionError if the views of the queue disagree."""
        self.shares.check()
        listed = [request for group in self.ordered() for request in group]
        assert {request.id: request for request in listed} == self._requests
        assert len(listed) == len(self._requests)
        assert all(islice(self._tenants.values(), len(self._tenants)))
