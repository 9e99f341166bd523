"""The control loop: drives one policy from events. The live dispatcher and the replay share it.

It reads no clock and does no I/O. Its owner reports events in order and sends to the engine what
the loop dispatches.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, TypeAlias

from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.in_flight import BatchesInFlight
from gateway.scheduling.policy import LockstepPolicy, Policy, SharingPolicy
from gateway.scheduling.requests import QueuedRequest, RunningSequence, SharedPrefix

STEPS_BETWEEN_DECISIONS: Final = 16  # while requests are queued and nothing ends
STEPS_UNTIL_ROOM: Final = 8  # without a start, until a tenant under its share gets room
ENDS_BETWEEN_JUDGEMENTS: Final = 20  # judgements of whether predictions are reliable

Fallback: TypeAlias = Literal["untrusted", "short_queue"]


class ControlLoop:
    """Decides when to call the policy, keeps its admission current, feeds outcomes back to it.

    `due` is set when a decision is due: a request arrived or ended, or `STEPS_BETWEEN_DECISIONS`
    steps passed while requests are queued. A decision is `give_up`, then `dispatch` until it
    returns None. `judgement_due` asks the owner to call `trust`.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.due = False
        self.judgement_due = False
        self.trusted = True
        self.steps = 0
        self._last_start = 0  # the step of the last dispatch of what fitted
        self._sharing = policy if isinstance(policy, SharingPolicy) else None
        self._pool: tuple[int, int, int | None] = 0, 1, None  # pages, tokens per page
        self._batches = BatchesInFlight()
        self._pinned: dict[str, SharedPrefix] = {}
        self._ends = 0
        self._contended_ends = 0  # while others were queued, since the last `settle`
        self._preemptions = 0

    @property
    def waiting(self) -> int:
        """Number of requests not yet dispatched."""
        return len(self.policy)

    @property
    def next_decision_step(self) -> int:
        """The step at which a decision is due even if nothing arrives or ends."""
        return (self.steps // STEPS_BETWEEN_DECISIONS + 1) * STEPS_BETWEEN_DECISIONS

    @property
    def fallback(self) -> Fallback | None:
        """Why the policy has fallen back to order of arrival; None if it has not."""
        if self.policy.order == "policy":
            return None
        return "short_queue" if self.trusted else "untrusted"

    def arrive(self, request: QueuedRequest) -> None:
        """Queue a request. ValueError if one with this id is queued already."""
        self.policy.arrive(request)
        self.due = True

    def withdraw(self, request_id: str) -> None:
        """Remove a queued request whose client has disconnected."""
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
        """A dispatched request left the engine with `tokens` generated."""
        self.policy.ended(request, tokens, now_s)
        outcome = self._batches.settle(request, tokens, now_s)
        if outcome is not None:
            self.policy.observe(*outcome)
        self._ends += 1
        self._contended_ends += self.waiting > 0
        self.judgement_due = self.judgement_due or self._ends % ENDS_BETWEEN_JUDGEMENTS == 0
        self.due = True

    def settle(self) -> None:
        """Let admission adapt, once all that ended at one time has been reported."""
        self.policy.admission.observed(self._contended_ends, self._preemptions)
        self._contended_ends = self._preemptions = 0

    def trust(self, trusted: bool) -> bool:
        """Set whether predictions are reliable; returns whether that changed."""
        self.judgement_due = False
        changed, self.trusted = trusted != self.trusted, trusted
        if changed:
            self.policy.trust(trusted)
        return changed

    def give_up(self, now_s: float) -> list[QueuedRequest]:
        """Begin a decision: remove the requests whose deadline can no longer be met."""
        self.due = False
        return self.policy.give_up(now_s)

    def dispatch(
        self, now_s: float, running: Callable[[], Sequence[RunningSequence]]
    ) -> Dispatch | None:
        """The next requests to send to the engine; None if nothing more fits.

        `running` returns the engine's sequences, this decision's earlier dispatches included.
        """
        if not self.waiting:
            return None
        if self.policy.admission.stale:
            self.refresh(running())
        dispatch = self.policy.dispatch(now_s)
        if dispatch is not None:
            self._last_start = self.steps
            self._batches.begin(dispatch, now_s)
        return dispatch

    def make_room(
        self, now_s: float, running: Callable[[], Sequence[RunningSequence]], free_pages: int
    ) -> Dispatch | None:
        """After `dispatch` returned None: a request to start in place of what it preempts.

        None while requests start: then a tenant's turn comes without a preemption.
        """
        blocked = self.steps - self._last_start >= STEPS_UNTIL_ROOM
        if not blocked or not self.waiting or self._sharing is None:
            return None
        dispatch = self._sharing.make_room(now_s, running, free_pages)
        if dispatch is not None:
            self._batches.begin(dispatch, now_s)
        return dispatch

    def over_share(self, running: Sequence[RunningSequence]) -> frozenset[str]:
        """Tenants whose sequences the engine should preempt first."""
        return frozenset() if self._sharing is None else self._sharing.over_share(running)

    def refresh(self, running: Sequence[RunningSequence]) -> None:
        """Recompute admission from the sequences that the engine holds now."""
        self.policy.admission.refresh(running)

    def reserve(self, request: QueuedRequest) -> int:
        """Tokens of generation for which the engine reserves memory, at least 1."""
        return self.policy.admission.reserve(request)

    def resize(self, pages: int, page_tokens: int, max_running: int | None = None) -> None:
        """Set the size of the KV pool and the most running sequences (None: no limit)."""
        self._pool = pages, page_tokens, max_running
        self.policy.resize(pages, page_tokens, max_running)

    def interrupt(self) -> None:
        """The engine stopped: drop batches in flight, whose serving times would be distorted."""
        self._batches.clear()

    def halve(self, requests: Sequence[QueuedRequest]) -> bool:
        """Queue what is left of a lock-step batch that ran out of memory again, in two halves.

        Returns False, and changes nothing, if the policy is none for lock step: it took over while
        the batch was in the engine.
        """
        if not isinstance(self.policy, LockstepPolicy):
            return False
        for request in requests:
            self._batches.forget(request.id)
        self.policy.halve(requests)
        self.due = True
        return True

    def pin(self, prefix: SharedPrefix) -> None:
        """A prefix is pinned in the engine: it counts whole until `unpin`."""
        self._pinned[prefix.id] = prefix
        self.policy.admission.pin(prefix)

    def unpin(self, prefix_id: str) -> None:
        """A prefix is no longer pinned in the engine: it counts while a member is alive."""
        if self._pinned.pop(prefix_id, None) is not None:
            self.policy.admission.unpin(prefix_id)

    def use(
        self, policy: Policy, waiting: Iterable[QueuedRequest], running: Sequence[RunningSequence]
    ) -> None:
        """Switch to another policy: move the queued requests there; running ones continue."""
        policy.resize(*self._pool)
        for request in waiting:
            self.policy.withdraw(request.id)
            policy.arrive(request)
        for prefix in self._pinned.values():
            self.policy.admission.unpin(prefix.id)
            policy.admission.pin(prefix)
        self.policy = policy
        self._sharing = policy if isinstance(policy, SharingPolicy) else None
        policy.trust(self.trusted)
        self.refresh(running)
        self.due = True
