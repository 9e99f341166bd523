"""Explains in one sentence why a request waited."""

from collections.abc import Iterator
from typing import Final, Literal

from msgspec import Struct

from gateway.generation.insight.times import RequestTimes
from gateway.generation.request_state import HostReason
from gateway.history.requests import OvertakingCounts
from gateway.scheduling.lmaas.inner_shares import Level

MIN_WAIT_S: Final = 0.05  # a shorter time in the queue counts as an immediate start
GIVE_UP_CLAUSES: Final = {
    "deadline": "because its deadline could not be met any more",
    "queue_time": "because it had not started within the longest wait that was allowed",
}

HOST_CLAUSES: Final[dict[HostReason, str]] = {
    "does_not_fit": "as the device cannot hold them",
    "would_preempt": "as the device had no room for them next to those of others",
}
WHOLE: Final[dict[Level, str]] = {"app": "tenant", "user": "app"}


class WaitFacts(Struct, frozen=True, kw_only=True):
    """The facts in the sentence; None if unknown."""

    state: Literal["waiting", "running", "ended"]
    started: bool
    waited_s: float
    queue_ahead: int | None = None
    passed_by: int | None = None
    passes: OvertakingCounts | None = None
    policy_order: str | None = None
    waits_for_share: Level | None = None
    overdue: bool = False
    preemptions: int = 0
    times: RequestTimes | None = None
    gave_up: str | None = None
    host_reason: HostReason | None = None


def explain_wait(facts: WaitFacts) -> str:
    """The sentence: what happened, the cause, then further circumstances."""
    return "; ".join((f"{_happened(facts)}{_because(facts)}", *_circumstances(facts))) + "."


def _happened(facts: WaitFacts) -> str:
    waited = f"{facts.waited_s:.2f} s"
    if facts.started:
        return f"It waited {waited}" if facts.waited_s > MIN_WAIT_S else "It started at once"
    if facts.state == "waiting":
        return f"It has waited {waited}"
    if facts.gave_up:
        return f"It was given up after {waited} {GIVE_UP_CLAUSES.get(facts.gave_up, facts.gave_up)}"
    return f"It ended after {waited} without having started"


def _because(facts: WaitFacts) -> str:
    if facts.waited_s <= MIN_WAIT_S or facts.queue_ahead is None:
        return ""
    known = facts.passes.total if facts.passes else 0
    passed = max(facts.passed_by or 0, known)
    if not facts.queue_ahead and not passed:
        return ": nothing waited before it, and what ran left no room for it"
    ahead = f": {_requests(facts.queue_ahead)} waited when it came"
    return (
        f"{ahead}, and {passed} that came later went first{_by_reason(facts)}" if passed else ahead
    )


def _by_reason(facts: WaitFacts) -> str:
    """The number of overtaking requests by reason, if known."""
    if facts.passes is None or not facts.passes.total:
        return ""
    counts = (
        (facts.passes.urgent, "of a more urgent tier"),
        (facts.passes.other_tenant, "in another tenant's turn"),
        (facts.passes.shorter, "with shorter answers"),
        (facts.passes.other, "for other reasons"),
    )
    return f" ({', '.join(f'{count} {words}' for count, words in counts if count)})"


def _circumstances(facts: WaitFacts) -> Iterator[str]:
    if facts.waits_for_share:
        whose = facts.waits_for_share
        yield f"its {whose} has had more than its share, and others of the {WHOLE[whose]} wait"
    if facts.overdue:
        yield "then it went first, being overdue"
    if facts.policy_order == "arrival" and facts.waited_s > MIN_WAIT_S:
        yield "the order was that of arrival"
    if facts.host_reason:
        verb = "are" if facts.started else "will be"
        yield f"its keys and values {verb} in host memory, {HOST_CLAUSES[facts.host_reason]}"
    if facts.preemptions:
        times = "once" if facts.preemptions == 1 else f"{facts.preemptions} times"
        lost_s = facts.times.preempted_s if facts.times is not None else 0.0
        lasted = f", {lost_s:.2f} s in all," if lost_s else ""
        yield f"while it ran it was suspended {times}{lasted} because memory had run out"
    if facts.state != "waiting" and facts.started and facts.times is not None:
        yield (
            f"its prompt took {facts.times.prefill_s:.2f} s, and its answer "
            f"{facts.times.running_s:.2f} s next to others"
        )
    if facts.state == "waiting" and facts.started:
        yield "it waits to go on where it stopped"


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"
