"""The error of a request that is shed before its start."""

from gateway.errors import DeadlineUnreachable, QueueTimeExceeded
from gateway.generation.request_state import RequestState


def shedding_error(state: RequestState, now_s: float) -> DeadlineUnreachable:
    """The error of a request that is shed before its start: its queue time or its deadline."""
    waited_s = now_s - state.arrived_s
    assert state.queued_request is not None
    start_by_s = state.queued_request.start_by_s
    if start_by_s is not None and now_s > start_by_s:
        return QueueTimeExceeded(
            f"the request waited {waited_s:.1f} s, its longest queue time, and has not started",
            param="x-lmaas-max-queue-ms",
            retry_after_s=max(waited_s, 1.0),
        )
    low, high = state.prediction.quantiles[0], state.prediction.quantiles[4]
    return DeadlineUnreachable(
        f"after {waited_s:.1f} s in the queue the answer, predicted to have {low:.0f} to "
        f"{high:.0f} tokens, cannot be complete by its deadline",
        param="x-lmaas-deadline-ms",
        retry_after_s=max(waited_s, 1.0),
    )
