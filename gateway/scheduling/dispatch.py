"""A policy's decision: the requests to send to the engine now, and their response ratio.

The response ratio is that of HRRN (highest response ratio next; Magnus, arXiv 2406.04785).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal, TypeAlias

from msgspec import Struct

from gateway.scheduling.requests import QueuedRequest, WaitingBatch

DispatchReason: TypeAlias = Literal["rank", "arrival", "overdue", "late", "share"]


def response_ratio(waited_s: float, serving_s: float) -> float:
    """R = (W + S)/S ≥ 1, with W the longest wait in the batch and S > 0 its serving time."""
    return (max(waited_s, 0.0) + serving_s) / serving_s


class LinearRank(Struct, frozen=True):
    """A rank linear in time, `offset + (now - origin_s)·slope`; the highest is next."""

    offset: float
    origin_s: float
    slope: float

    def at(self, now_s: float) -> float:
        """The rank at `now_s`."""
        return self.offset + (now_s - self.origin_s) * self.slope


def ratio_rank(oldest_s: float, serving_s: float) -> LinearRank:
    """R of a batch as a function of time: 1 at arrival, growing by 1/S each second."""
    return LinearRank(1.0, oldest_s, 1.0 / serving_s)


class Dispatch(Struct, frozen=True):
    """Requests to start together.

    `serving_s` is S of these requests, `waited_s` their longest wait W and `ratio` R = (W + S)/S.
    `reason` is why they are next: the highest `rank`, `arrival` where order is by arrival,
    `overdue` where they had been held back for as long as the bound allows, `late` where a deadline
    is near, `share` where another app or user of their tenant would have exceeded its share. The
    engine is to preempt the requests named in `preempt` to make room. `on_host`: their keys and
    values are to be in host memory.
    """

    requests: tuple[QueuedRequest, ...]
    serving_s: float
    ratio: float
    waited_s: float
    reason: DispatchReason = "rank"
    preempt: tuple[str, ...] = ()
    on_host: bool = False

    @property
    def overdue(self) -> bool:
        """Whether they had been held back for as long as the bound allows."""
        return self.reason == "overdue"


def dispatch_of(
    requests: Sequence[QueuedRequest],
    *,
    serving_s: float,
    now_s: float,
    reason: DispatchReason = "rank",
) -> Dispatch:
    """A dispatch of these requests."""
    waited_s = max(now_s - min(request.arrived_s for request in requests), 0.0)
    ratio = response_ratio(waited_s, serving_s)
    return Dispatch(tuple(requests), serving_s, ratio, waited_s, reason)


def waiting_batch_of(
    name: str,
    requests: Sequence[QueuedRequest],
    *,
    serving_s: float,
    now_s: float,
    ordered: Callable[[], Iterator[QueuedRequest]] | None = None,
) -> WaitingBatch:
    """A queued batch of these requests, which are in order unless `ordered` puts them in order."""
    waited_s = now_s - min(request.arrived_s for request in requests)
    tenants = {request.tenant for request in requests}
    return WaitingBatch(
        name,
        len(requests),
        tenants.pop() if len(tenants) == 1 else None,
        max(request.median for request in requests),
        serving_s,
        response_ratio(waited_s, serving_s),
        ordered or partial(iter, requests),
    )
