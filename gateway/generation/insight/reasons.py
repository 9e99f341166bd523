"""Why a request waited, in one plain sentence."""

from collections.abc import Iterator
from typing import Final, Literal

from msgspec import Struct

from gateway.history.requests import Passes

AT_ONCE_S: Final = 0.05  # nobody calls this a wait
GAVE_UP: Final = {
    "deadline": "because its deadline could not be met any more",
    "queue_time": "because it had not started within the longest wait that was allowed",
}


class Facts(Struct, frozen=True, kw_only=True):
    """What the sentence is made of; None where it is not known."""

    state: Literal["waiting", "running", "ended"]
    started: bool
    waited_s: float
    queue_ahead: int | None = None
    passed_by: int | None = None
    passes: Passes | None = None
    policy_order: str | None = None
    overdue: bool = False
    preemptions: int = 0
    gave_up: str | None = None


def why(facts: Facts) -> str:
    """The sentence: what happened, because of what, and what else there was to it."""
    return "; ".join((f"{_happened(facts)}{_because(facts)}", *_besides(facts))) + "."


def _happened(facts: Facts) -> str:
    waited = f"{facts.waited_s:.2f} s"
    if facts.started:
        return f"It waited {waited}" if facts.waited_s > AT_ONCE_S else "It started at once"
    if facts.state == "waiting":
        return f"It has waited {waited}"
    if facts.gave_up:
        return f"It was given up after {waited} {GAVE_UP.get(facts.gave_up, facts.gave_up)}"
    return f"It ended after {waited} without having started"


def _because(facts: Facts) -> str:
    if facts.waited_s <= AT_ONCE_S or facts.queue_ahead is None:
        return ""
    known = facts.passes.total if facts.passes else 0
    passed = max(facts.passed_by or 0, known)
    if not facts.queue_ahead and not passed:
        return ": nothing waited before it, and what ran left no room for it"
    ahead = f": {_requests(facts.queue_ahead)} waited when it came"
    return f"{ahead}, and {passed} that came later went first{_how(facts)}" if passed else ahead


def _how(facts: Facts) -> str:
    """For which reasons others went first, where they are known."""
    if facts.passes is None or not facts.passes.total:
        return ""
    counts = (
        (facts.passes.urgent, "of a more urgent tier"),
        (facts.passes.other_tenant, "in another tenant's turn"),
        (facts.passes.shorter, "with shorter answers"),
        (facts.passes.other, "for other reasons"),
    )
    return f" ({', '.join(f'{count} {words}' for count, words in counts if count)})"


def _besides(facts: Facts) -> Iterator[str]:
    if facts.overdue:
        yield "then it went first, being overdue"
    if facts.policy_order == "arrival" and facts.waited_s > AT_ONCE_S:
        yield "the order was that of arrival"
    if facts.preemptions:
        times = "once" if facts.preemptions == 1 else f"{facts.preemptions} times"
        yield f"while it ran it was suspended {times} because memory had run out"


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"
