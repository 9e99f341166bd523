"""The control loop: drives one policy from events. The live dispatcher and the replay share it.

It reads no clock and does no I/O. Its owner reports what happens, in order, and hands over what the
loop dispatches.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, TypeAlias

from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.in_flight import BatchesInFlight
from gateway.scheduling.policy import LockstepPolicy, Policy
from gateway.scheduling.requests import QueuedRequest, RunningSequence

STEPS_BETWEEN_DECISIONS: Final = 16  # while requests wait and nothing ends
ENDS_BETWEEN_JUDGEMENTS: Final = 20  # of whether predictions hold

Fallback: TypeAlias = Literal["untrusted", "short_queue"]


class ControlLoop:
    """When to decide, what a decision needs to know, and what the policy learns from outcomes.

    `due` says that a decision is due: something arrived or ended, or `STEPS_BETWEEN_DECISIONS`
    steps passed while requests wait. A decision is `give_up`, then `dispatch` until it returns
    None. `judgement_due` asks the owner to call `trust`.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.due = False
        self.judgement_due = False
        self.trusted = True
        self.steps = 0
        self._pool = 0, 1  # pages, tokens a page
        self._batches = BatchesInFlight()
        self._ends = 0
        self._contended_ends = 0  # while others waited, since admission last heard of them
        self._preemptions = 0

    @property
    def waiting(self) -> int:
        """Requests not yet dispatched."""
        return len(self.policy)

    @property
    def next_decision_step(self) -> int:
        """The step after which a decision is due though nothing arrived or ended."""
        return (self.steps // STEPS_BETWEEN_DECISIONS + 1) * STEPS_BETWEEN_DECISIONS

    @property
    def fallback(self) -> Fallback | None:
        """Why the policy goes by order of arrival now; None where it does not."""
        if self.policy.order == "policy":
            return None
        return "short_queue" if self.trusted else "untrusted"

    def arrive(self, request: QueuedRequest) -> None:
        """Let a request wait. ValueError if one with this id waits already."""
        self.policy.arrive(request)
        self.due = True

    def withdraw(self, request_id: str) -> None:
        """Remove a waiting request whose client has gone."""
        self.policy.withdraw(request_id)

    def advance(self, steps: int) -> None:
        """Account for steps of the engine."""
        if steps:
            self.due = self.due or self.steps + steps >= self.next_decision_step
            self.steps += steps
            self.policy.admission.advance(steps)

    def preempted(self, count: int) -> None:
        """Account for preemptions by the engine."""
        self._preemptions += count

    def ended(self, request: QueuedRequest, tokens: int, now_s: float) -> None:
        """A dispatched request left the engine with this many tokens generated."""
        self.policy.ended(request, tokens, now_s)
        outcome = self._batches.settle(request.id, tokens, now_s)
        if outcome is not None:
            self.policy.observe(*outcome)
        self._ends += 1
        self._contended_ends += self.waiting > 0
        self.judgement_due = self.judgement_due or self._ends % ENDS_BETWEEN_JUDGEMENTS == 0
        self.due = True

    def settle(self) -> None:
        """All that ended at one time has been reported: admission adapts to it."""
        self.policy.admission.observed(self._contended_ends, self._preemptions)
        self._contended_ends = self._preemptions = 0

    def trust(self, trusted: bool) -> bool:
        """Whether predictions hold now; returns whether that changed."""
        self.judgement_due = False
        changed, self.trusted = trusted != self.trusted, trusted
        if changed:
            self.policy.trust(trusted)
        return changed

    def give_up(self, now_s: float) -> list[QueuedRequest]:
        """Begin a decision: withdraw the requests whose deadline cannot be met any more."""
        self.due = False
        return self.policy.give_up(now_s)

    def dispatch(
        self, now_s: float, running: Callable[[], Sequence[RunningSequence]]
    ) -> Dispatch | None:
        """What to hand over next; None where nothing more fits.

        `running` gives what the engine holds, this decision's earlier dispatches included.
        """
        if not self.waiting:
            return None
        if self.policy.admission.stale:
            self.refresh(running())
        dispatch = self.policy.dispatch(now_s)
        if dispatch is not None:
            self._batches.begin(dispatch, now_s)
        return dispatch

    def refresh(self, running: Sequence[RunningSequence]) -> None:
        """Let admission start over from what the engine holds now."""
        self.policy.admission.refresh(running)

    def reserve(self, request: QueuedRequest) -> int:
        """Tokens of generation that the engine promises memory for, at least 1."""
        return self.policy.admission.reserve(request)

    def resize(self, pages: int, page_tokens: int) -> None:
        """Count on a KV pool of this size from now on."""
        self._pool = pages, page_tokens
        self.policy.resize(pages, page_tokens)

    def interrupt(self) -> None:
        """The engine stands still: serving times measured across that would mislead."""
        self._batches.clear()

    def halve(self, requests: Sequence[QueuedRequest]) -> None:
        """A batch in lock step ran out of memory: its requests wait again, in two halves."""
        assert isinstance(self.policy, LockstepPolicy)
        for request in requests:
            self._batches.forget(request.id)
        self.policy.halve(requests)
        self.due = True

    def use(
        self, policy: Policy, waiting: Iterable[QueuedRequest], running: Sequence[RunningSequence]
    ) -> None:
        """Schedule by another policy: what waits moves there, what runs goes on."""
        policy.resize(*self._pool)
        for request in waiting:
            self.policy.withdraw(request.id)
            policy.arrive(request)
        self.policy = policy
        policy.trust(self.trusted)
        self.refresh(running)
        self.due = True
