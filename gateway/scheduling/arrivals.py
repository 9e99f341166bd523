"""Waiting requests in order of arrival."""

from itertools import count

from gateway.scheduling.lazy_heap import LazyHeap
from gateway.scheduling.waiting import Waiting


class ArrivalOrder:
    """Requests by id, oldest first; every change costs O(log n) amortised."""

    def __init__(self) -> None:
        self._serials = count()
        self._serial_of: dict[str, int] = {}
        self._requests: dict[int, Waiting] = {}
        self._arrival: LazyHeap[float, Waiting] = LazyHeap(self._requests)

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._serial_of

    def add(self, request: Waiting) -> None:
        """Take a request in. ValueError if one with this id is here."""
        if request.id in self._serial_of:
            raise ValueError(f"request {request.id} waits already; ids must differ")
        serial = self._serial_of[request.id] = next(self._serials)
        self._requests[serial] = request
        self._arrival.push(request.arrived_s, serial)

    def remove(self, request_id: str) -> bool:
        """Let a request go; False if it is not here."""
        serial = self._serial_of.pop(request_id, None)
        return serial is not None and self._requests.pop(serial, None) is not None

    def first(self, count: int) -> list[Waiting]:
        """The `count` requests that arrived first, in that order."""
        return self._arrival.first(count)

    def check(self) -> None:
        """AssertionError where requests and their ids disagree."""
        assert len(self._serial_of) == len(self._requests)
        for request_id, serial in self._serial_of.items():
            assert self._requests[serial].id == request_id
