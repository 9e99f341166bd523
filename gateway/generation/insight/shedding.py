"""The error of a request that is shed before its start."""

from gateway.errors import DeadlineUnreachable, QueueTimeExceeded
from gateway.generation.request_state import RequestState
from gateway.scheduling.waits.bands import WaitBand
from gateway.scheduling.waits.estimator import Outlook


def shedding_error(
    state: RequestState, now_s: float, again: Outlook | None = None
) -> DeadlineUnreachable:
    """The error of a request that is shed before its start: its queue time or its deadline.

    `again` is what would be expected of it if it came again now: it is to wait until the rest of
    the queue leaves it time enough.
    """
    waited_s = now_s - state.arrived_s
    request = state.request
    start, finish = (None, None) if again is None else (again.start, again.finish)
    assert state.queued_request is not None
    start_by_s = state.queued_request.start_by_s
    if start_by_s is not None and now_s > start_by_s:
        return QueueTimeExceeded(
            f"the request waited {waited_s:.1f} s, its longest queue time, and has not started",
            param="x-lmaas-max-queue-ms",
            retry_after_s=_beyond(start, request.max_queue_s, waited_s),
        )
    low, high = state.prediction.quantiles[0], state.prediction.quantiles[4]
    return DeadlineUnreachable(
        f"after {waited_s:.1f} s in the queue the answer, predicted to have {low:.0f} to "
        f"{high:.0f} tokens, cannot be complete by its deadline",
        param="x-lmaas-deadline-ms",
        retry_after_s=_beyond(finish, request.deadline_s, waited_s),
    )


def _beyond(expected: WaitBand | None, allowed_s: float | None, waited_s: float) -> float:
    """Seconds by which the 0.9 quantile is later than allowed, at least 1."""
    if expected is None or allowed_s is None:
        return max(waited_s, 1.0)
    return max(expected.p90 - allowed_s, 1.0)
