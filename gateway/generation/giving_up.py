"""What a client is told whose request was given up before its start."""

from gateway.errors import DeadlineUnreachable, QueueTimeExceeded
from gateway.generation.live import LiveRequest


def given_up(live: LiveRequest, now_s: float) -> DeadlineUnreachable:
    """Why a request that waits is given up."""
    waited_s = now_s - live.arrived_s
    request = live.request
    assert request is not None
    if request.start_by_s is not None and now_s > request.start_by_s:
        return QueueTimeExceeded(
            f"it waited {waited_s:.1f} s, as long as it was allowed to, and has not started",
            param="x-lmaas-max-queue-ms",
            retry_after_s=max(waited_s, 1.0),
        )
    return DeadlineUnreachable(
        f"after {waited_s:.1f} s in the queue the answer, {live.prediction.quantiles[0]:.0f} to "
        f"{live.prediction.quantiles[4]:.0f} tokens in all likelihood, cannot be there in time",
        param="x-lmaas-deadline-ms",
        retry_after_s=max(waited_s, 1.0),
    )
