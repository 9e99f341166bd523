"""Says in a few words why a request is where it is in the queue."""

from typing import Final

from gateway.generation.insight.queue_view import QueueEntry
from gateway.generation.request_state import HostReason

URGENT: Final = 1.0  # urgency of a request that asks for nothing
WORTH_SAYING: Final = 1.5  # response ratio
HOST_REASONS: Final[dict[HostReason, str]] = {
    "does_not_fit": "the device cannot hold it",
    "would_preempt": "the device had no room for it next to others",
}


def place_reason(entry: QueueEntry) -> str:
    """The reason of a waiting request's place; what a running one does."""
    if entry.state == "running":
        return f"{_running(entry)}{_on_host(entry, '; in host memory')}"
    if entry.lane == "batch":
        return "line of a job: starts when no other request waits"
    reasons = []
    if entry.waits_for_share is not None:
        whole = "tenant" if entry.waits_for_share == "app" else "app"
        reasons.append(
            f"its {entry.waits_for_share} has had more than its share, others of the {whole} wait"
        )
    if entry.position == 1:
        reasons.append("next to start")
    if entry.deadline_s is not None:
        due = "overdue" if entry.deadline_s < 0 else f"due in {entry.deadline_s:.1f} s"
        reasons.append(due)
    if entry.urgency > URGENT:
        reasons.append(f"tier {entry.service_tier}, more urgent")
    elif entry.urgency < URGENT:
        reasons.append(f"tier {entry.service_tier}, less urgent")
    if entry.ratio is not None and entry.ratio >= WORTH_SAYING:
        reasons.append(f"its batch has waited {entry.ratio - 1:.1f} × the time it will take")
    elif not reasons:
        reasons.append("it has waited little for what it will take")
    return f"{'; '.join(reasons)}{_on_host(entry, '; waits for host memory')}"


def _on_host(entry: QueueEntry, words: str) -> str:
    """These words and the reason, if its keys and values are not on the device."""
    return "" if entry.memory_reason is None else f"{words}, as {HOST_REASONS[entry.memory_reason]}"


def _running(entry: QueueEntry) -> str:
    if not entry.generated_tokens:
        return "its prompt is being read"
    beyond = entry.generated_tokens > entry.predicted_p90_tokens
    return "writes on, beyond its P90" if beyond else "writes its answer"
