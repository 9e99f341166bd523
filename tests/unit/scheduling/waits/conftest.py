"""Queued requests, running sequences and snapshots."""

from collections.abc import Sequence

from gateway.scheduling.admission.prices import LinearStepTime
from gateway.scheduling.requests import QueuedRequest, RunningSequence
from gateway.scheduling.waits.snapshot import (
    QueueSnapshot,
    RankedQueue,
    RankedRequest,
    TenantOrder,
)

STEP = LinearStepTime(0.1, 0.0, 0.0, 0.0)


def queued(name: str, tokens: float, *, tenant: str = "t", prompt: int = 10) -> QueuedRequest:
    """A request whose answer has this many tokens for certain."""
    return QueuedRequest(
        id=name,
        tenant=tenant,
        prompt_tokens=prompt,
        quantiles=(tokens,) * 6,
        max_tokens=1_000,
        arrived_s=0.0,
    )


def running(tokens: float, generated: int = 0) -> RunningSequence:
    """A sequence of this many tokens for certain."""
    return RunningSequence("r", 10, generated, (tokens,) * 6, 1_000)


def snapshot(
    waiting: Sequence[tuple[QueuedRequest, float]],
    sequences: Sequence[RunningSequence],
    *,
    most: int,
    counters: dict[str, float] | None = None,
) -> QueueSnapshot:
    """A snapshot at 0 with room for `most` sequences; a step takes 0.1 s."""
    tenants = counters or {each.tenant: 0.0 for each, _ in waiting}
    queue = RankedQueue(
        [RankedRequest(*each) for each in waiting],
        {name: TenantOrder(counter, 1.0) for name, counter in tenants.items()},
    )
    return QueueSnapshot(0.0, queue, sequences, STEP, 1e9, most)
