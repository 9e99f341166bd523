"""What a forecast of the queue starts from."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from msgspec import Struct

from gateway.scheduling.admission.prices import LinearStepTime
from gateway.scheduling.requests import QueuedRequest, RunningSequence


class RankedRequest(NamedTuple):
    """A queued request and its rank at the snapshot; within a tenant the highest is next."""

    request: QueuedRequest
    rank: float


class TenantOrder(NamedTuple):
    """A tenant's counter (the lowest is next), and how a rank grows by a second of waiting."""

    counter: float
    gain_per_s: float


class RankedQueue(Struct, frozen=True):
    """All queued interactive requests with their ranks, and how tenants take turns.

    `tenants` is None where they take none: the highest rank of all is next.
    """

    requests: Sequence[RankedRequest]
    tenants: Mapping[str, TenantOrder] | None


@runtime_checkable
class RankingPolicy(Protocol):
    """A policy that shows the ranks by which it orders its queue."""

    def ranked(self, now_s: float) -> Callable[[], RankedQueue]:
        """Note the queue as it is; the returned function ranks it, and may run in any thread."""

    def rank_of(self, request_id: str, now_s: float) -> float | None:
        """The rank of one queued request; None if it is not queued."""

    def rank_of_new(self, request: QueuedRequest) -> float:
        """The rank that a request would have if it arrived now."""


def ranked_by_arrival(requests: Sequence[QueuedRequest], now_s: float) -> RankedQueue:
    """A queue in order of arrival: what a policy without ranks to show is taken to have."""
    return RankedQueue([RankedRequest(each, now_s - each.arrived_s) for each in requests], None)


class QueueSnapshot(Struct, frozen=True):
    """The queue and the engine at a time.

    The engine runs at most `most_running` sequences at once. `room_tokens` is the KV pool.
    """

    now_s: float
    queue: RankedQueue
    running: Sequence[RunningSequence]
    step: LinearStepTime
    room_tokens: float
    most_running: int
