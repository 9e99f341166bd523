"""A queued batch that tracks the longest and oldest of its changing members."""

from gateway.scheduling.lazy_heap import LazyHeap
from gateway.scheduling.magnus.wma import row_reads
from gateway.scheduling.requests import QueuedRequest


class MagnusBatch:
    """Queued requests by serial number; each extreme costs O(log n) amortised.

    A batch lasts until its longest answer has ended, and holds memory for all rows until then. The
    longest of many outgrows their medians, so G'(p) is the 0.9 quantile here. `insertable` is False
    for a half of a batch that ran out of memory: no request may join it.
    """

    __slots__ = ("_arrival", "_generation", "_prompt", "_reads", "id", "insertable", "members",
                 "serial")  # fmt: skip

    def __init__(self, serial: int, *, insertable: bool = True) -> None:
        self.serial = serial
        self.id = f"b{serial}"
        self.insertable = insertable
        self.members: dict[int, QueuedRequest] = {}
        self._prompt: LazyHeap[float, QueuedRequest] = LazyHeap(self.members)
        self._generation: LazyHeap[float, QueuedRequest] = LazyHeap(self.members)
        self._reads: LazyHeap[float, QueuedRequest] = LazyHeap(self.members)
        self._arrival: LazyHeap[float, QueuedRequest] = LazyHeap(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def add(self, serial: int, request: QueuedRequest) -> None:
        """Add a request under a serial number that was never used before."""
        self.members[serial] = request
        self._prompt.push(-request.prompt_tokens, serial)
        self._generation.push(-request.p90, serial)
        self._reads.push(row_reads(request.prompt_tokens, request.p90), serial)
        self._arrival.push(request.arrived_s, serial)

    def remove(self, serial: int) -> None:
        """Remove a member. KeyError if it is none."""
        del self.members[serial]

    @property
    def prompt_tokens(self) -> int:
        """L(B): the longest prompt."""
        return int(-self._prompt.min_key())

    @property
    def generation_tokens(self) -> float:
        """G(B): the longest predicted generation."""
        return -self._generation.min_key()

    @property
    def min_reads(self) -> float:
        """The minimum of T(L(p), G'(p)) over the members, which WMA(B) subtracts."""
        return self._reads.min_key()

    @property
    def oldest_s(self) -> float:
        """Arrival time of the oldest member."""
        return self._arrival.min_key()

    def first(self, count: int) -> list[QueuedRequest]:
        """The `count` members that arrived first, in that order."""
        return self._arrival.first(count)
