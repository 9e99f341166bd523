"""The control loop: drives one policy from events. The live dispatcher and the replay share it.

It reads no clock and does no I/O. Its owner reports events in order and sends to the engine what
the loop dispatches. Requests of the batch lane start when no interactive one waits; interactive
decisions are the same with and without them.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, TypeAlias

from msgspec import structs

from gateway.scheduling.admission.interface import STEPS_BETWEEN_DECISIONS, Capacity
from gateway.scheduling.admission.ledger import HeldPages, held_pages
from gateway.scheduling.admission.prices import EngineCost
from gateway.scheduling.batch_lane.lane import MAX_PER_LOCKSTEP_BATCH, BatchLane
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.host_choice import compare
from gateway.scheduling.host_lane import HostLane
from gateway.scheduling.in_flight import BatchesInFlight
from gateway.scheduling.magnus.lockstep import halves_of
from gateway.scheduling.policy import OrderedPolicy, Policy, SharingPolicy, is_lockstep
from gateway.scheduling.requests import QueuedRequest, RunningSequence, SharedPrefix
from gateway.scheduling.routing.admission import RoutedAdmission, RunningOn
from gateway.scheduling.routing.lane_admission import RoutedLaneAdmission

STEPS_UNTIL_ROOM: Final = 8  # without a start, until a tenant under its share gets room
ENDS_BETWEEN_JUDGEMENTS: Final = 20  # judgements of whether predictions are reliable

Fallback: TypeAlias = Literal["untrusted", "short_queue"]


class ControlLoop:
    """Decides when to call the policy, keeps its admission current, feeds outcomes back to it.

    `due` is set when a decision is due: a request arrived or ended, or `STEPS_BETWEEN_DECISIONS`
    steps passed while requests are queued. A decision is `give_up`, then `dispatch` until it
    returns None. `judgement_due` asks the owner to call `trust`.

    With a routed admission it drives several engines, by number: `running_on` returns what one has,
    and `engine_of` says where a dispatched request is to go. Pins and `make_room` are for one
    engine. With one engine, all numbers are 0.
    """

    def __init__(self, policy: Policy, running_on: RunningOn | None = None) -> None:
        self.policy = policy
        self._routed = routed = _routed(policy)
        self._routed_lane = None if routed is None else RoutedLaneAdmission(routed)
        for admission in (self._routed, self._routed_lane):
            if admission is not None and running_on is not None:
                admission.read(running_on)
        self.engines = 1 if routed is None else routed.engines
        self.engine_steps = [0] * self.engines
        self.batch_lane = BatchLane(self._routed_lane)
        self.due = False
        self.judgement_due = False
        self.trusted = True
        self.steps = 0  # of all engines
        self._last_start = 0  # the step of the last dispatch of what fitted
        self._sharing = policy if isinstance(policy, SharingPolicy) else None
        self._ordered = policy if isinstance(policy, OrderedPolicy) else None
        self._pool: tuple[int, int, int | None] = 0, 1, None  # pages, tokens per page
        self._most_running: list[int | None] = [None] * self.engines
        self._most_background: list[int | None] = [None] * self.engines  # as measured
        self._batches = BatchesInFlight()
        self._ends = 0
        self._cost: EngineCost | None = None
        self._may_move: set[str] = set()  # queued requests that host memory may take

    @property
    def waiting(self) -> int:
        """Number of requests not yet dispatched, of both lanes."""
        return len(self.policy) + len(self.batch_lane)

    def next_decision_step(self, engine: int = 0) -> int:
        """The step of an engine at which a decision is due even if nothing arrives or ends."""
        steps = self.engine_steps[engine]
        return (steps // STEPS_BETWEEN_DECISIONS + 1) * STEPS_BETWEEN_DECISIONS

    @property
    def fallback(self) -> Fallback | None:
        """Why the policy has fallen back to order of arrival; None if it has not."""
        if self.policy.order == "policy":
            return None
        return "short_queue" if self.trusted else "untrusted"

    def arrive(self, request: QueuedRequest) -> None:
        """Queue a request in its lane. ValueError if one with this id is queued already."""
        if request.lane == "batch":
            self.batch_lane.arrive(request)
        else:
            self.policy.arrive(request)
            if request.host is not None:
                self._may_move.add(request.id)
        self.due = True

    def revise(
        self, queued: Sequence[QueuedRequest], started: Sequence[QueuedRequest] = ()
    ) -> None:
        """Take requests as if they had arrived with these predictions.

        Each is the known request of its id with other quantiles. What is queued is ranked again.
        Before it next admits, admission takes what has started as predicted now: its owner reports
        these quantiles in the running sequences, too.
        """
        requests = [*queued, *started]
        self.policy.revise([each for each in requests if each.lane == "interactive"])
        self.batch_lane.revise([each for each in requests if each.lane == "batch"])
        if started:
            self.policy.admission.outdate()
            self.batch_lane.admission.outdate()
        self.due = True

    def withdraw(self, request_id: str) -> None:
        """Remove a queued request whose client has disconnected."""
        self._may_move.discard(request_id)
        if not self.policy.withdraw(request_id):
            self.batch_lane.queue.remove(request_id)

    def advance(self, steps: int, engine: int = 0) -> None:
        """Account for steps of an engine."""
        if steps:
            due_step = self.next_decision_step(engine)
            self.due = self.due or self.engine_steps[engine] + steps >= due_step
            self.steps += steps
            self.engine_steps[engine] += steps
            if self._routed is None:
                self.policy.admission.advance(steps)
            else:
                self._routed.advance_engine(engine, steps)
            if self.batch_lane.active:
                self._advance_lane(steps, engine)

    def ended(self, request: QueuedRequest, tokens: int, now_s: float) -> None:
        """A dispatched request left the engine with `tokens` generated."""
        self.due = True
        if request.lane == "batch":
            self.batch_lane.ended(request, tokens, now_s)
            self.policy.admission.leave(request.id)  # it is there in lock step
            return
        if self.batch_lane.used:
            self.batch_lane.interactive_ended(request.id)
        self.policy.ended(request, tokens, now_s)
        outcome = self._batches.settle(request, tokens, now_s)
        if outcome is not None:
            self.policy.observe(*outcome)
        self._ends += 1
        self.judgement_due = self.judgement_due or self._ends % ENDS_BETWEEN_JUDGEMENTS == 0

    def trust(self, trusted: bool) -> bool:
        """Set whether predictions are reliable; returns whether that changed."""
        self.judgement_due = False
        changed, self.trusted = trusted != self.trusted, trusted
        if changed:
            self.policy.trust(trusted)
            self.batch_lane.trust(trusted)
        return changed

    def engine_of(self, request_id: str) -> int:
        """The engine on which a dispatched request is, or is to start."""
        if self._routed is None:
            return 0
        return self._routed.router.engine_of(request_id) or 0

    def give_up(self, now_s: float) -> list[QueuedRequest]:
        """Begin a decision: remove the requests whose deadline can no longer be met."""
        self.due = False
        given_up = self.policy.give_up(now_s)
        self._may_move.difference_update(request.id for request in given_up)
        if len(self.batch_lane):
            given_up = [*given_up, *self.batch_lane.queue.expired(now_s)]
        return given_up

    def dispatch(
        self, now_s: float, running: Callable[[], Sequence[RunningSequence]]
    ) -> Dispatch | None:
        """The next requests of one lane to send to the engine; None if nothing more fits.

        `running` returns the engine's sequences, this decision's earlier dispatches included. The
        batch lane has its turn only while nothing interactive waits.
        """
        if not len(self.policy):
            return self._dispatch_batch(now_s, running) if len(self.batch_lane) else None
        if self.policy.admission.stale:
            self._refresh_interactive(running())
        dispatch = self.policy.dispatch(now_s)
        if dispatch is not None:
            self._last_start = self.steps
            self._started(dispatch, now_s)
        return dispatch

    def move_to_host(
        self, now_s: float, running: Callable[[], Sequence[RunningSequence]], lane: HostLane
    ) -> Dispatch | None:
        """After `dispatch` returned None: the next request, if it is to run in host memory instead.

        That is if it may, there is room, and all requests are delayed less than by its wait.
        """
        policy, cost = self._ordered, self._cost
        if lane.costs is None or cost is None or policy is None or policy.lockstep:
            return None
        request = policy.head(now_s)
        if request is None or request.host is None or not lane.has_room(request):
            return None
        capacity, sequences = policy.admission.capacity, self._interactive(running())
        if not (sequences and capacity.allows(len(sequences))):
            return None
        behind, like_it = len(policy) - 1, len(self._may_move) - 1
        delays = compare(request, sequences, capacity, cost, lane, behind, like_it)
        if delays is None or not delays.host_pays:
            return None
        lane.take(request)
        self._may_move.discard(request.id)
        self._last_start = self.steps
        return structs.replace(policy.start_head(now_s), on_host=True)

    def make_room(
        self, now_s: float, running: Callable[[], Sequence[RunningSequence]], free_pages: int
    ) -> Dispatch | None:
        """After `dispatch` returned None: a request to start in place of what it preempts.

        None while requests start: then a tenant's turn comes without a preemption.
        """
        blocked = self.steps - self._last_start >= STEPS_UNTIL_ROOM
        routed = self._routed is not None
        if not blocked or not len(self.policy) or self._sharing is None or routed:
            return None
        if self.batch_lane.running:  # the engine preempts those by itself
            others = [each for each in running() if each.lane == "batch"]
            free_pages += self.held(others).in_pool
        dispatch = self._sharing.make_room(now_s, lambda: self._interactive(running()), free_pages)
        if dispatch is not None:
            self._started(dispatch, now_s)
        return dispatch

    def over_share(self, running: Sequence[RunningSequence]) -> frozenset[str]:
        """Tenants whose interactive sequences the engine should preempt first."""
        if self._sharing is None:
            return frozenset()
        return self._sharing.over_share(self._interactive(running))

    def refresh(self, running: Sequence[RunningSequence]) -> None:
        """Recompute admission from the sequences that the engine holds now, of both lanes."""
        self._refresh_interactive(running)
        if self.batch_lane.active:
            self.batch_lane.refresh(running)

    def held(self, running: Sequence[RunningSequence]) -> HeldPages:
        """The ledger: pages that these sequences and all pins hold now, by kind."""
        lane = self.batch_lane.admission
        return held_pages(running, lane.pinned, lane.capacity.page_tokens)

    def pin(self, prefix: SharedPrefix) -> None:
        """A prefix of the batch lane is pinned in the engine until `unpin`."""
        self.batch_lane.admission.pin(prefix)
        self.due = True

    def unpin(self, prefix_id: str) -> None:
        """A prefix is no longer pinned in the engine; an unknown one is ignored."""
        self.batch_lane.admission.unpin(prefix_id)
        self.due = True

    def reserve(self, request: QueuedRequest) -> int:
        """Tokens of generation for which the engine reserves memory, at least 1."""
        if request.lane == "batch" and not self.policy.lockstep:
            return self.batch_lane.admission.reserve(request)
        return self.policy.admission.reserve(request)

    def resize(
        self, pages: int, page_tokens: int, max_running: int | None = None, *, engine: int = 0
    ) -> None:
        """Set the size of an engine's KV pool and its most running sequences (None: no limit)."""
        self._most_running[engine] = max_running
        if self._routed is not None:
            capacity = Capacity(pages, page_tokens, max_running)
            self._routed.resize_engine(engine, capacity)
            self.batch_lane.resize(capacity, engine)
            self.due = True
        else:
            self._pool = pages, page_tokens, max_running
            self.policy.resize(pages, page_tokens, max_running)
            self.batch_lane.resize(self.policy.admission.capacity)
        self._most_background[engine] = None
        self._limit_lane()

    def price(self, cost: EngineCost | None, *, engine: int = 0) -> None:
        """Set the measured cost of an engine, by which admission weighs; None: it is not known."""
        if self._routed is not None and self._routed_lane is not None:
            self._routed.price_engine(engine, cost)
            self._routed_lane.price_engine(engine, cost)
            return
        self._cost = cost
        self.policy.admission.price(cost)
        self.batch_lane.admission.price(cost)

    def limit_batch(self, most_running: int | None, *, engine: int = 0) -> None:
        """Set the most running sequences of the batch lane, as an engine has measured it.

        None: it has not; as many as in the other lane. The lane runs as many as all engines may.
        """
        if most_running != self._most_background[engine]:  # it is reported with every step
            self._most_background[engine] = most_running
            self._limit_lane()

    def _limit_lane(self) -> None:
        limits = [
            self._most_running[number] if most is None else most
            for number, most in enumerate(self._most_background)
        ]
        known = [limit for limit in limits if limit is not None]
        self.batch_lane.most_running = sum(known) if len(known) == len(limits) else None

    def interrupt(self) -> None:
        """An engine stopped: drop batches in flight, whose serving times would be distorted."""
        self._batches.clear()
        self.batch_lane.interrupt()

    def lose(self, engine: int) -> None:
        """An engine stopped. One of several has nothing any more, see `move`."""
        self.interrupt()
        if self._routed is not None and self._routed_lane is not None:
            self._routed_lane.lost(engine)
            self._routed.lost(engine)
            self.limit_batch(0, engine=engine)
            self.due = True

    def move(self, sequence: RunningSequence, request: QueuedRequest) -> int | None:
        """The engine on which a lost engine's sequence goes on; None while all are lost.

        `request` is its request, with the tokens that it has generated.
        """
        if self._routed is None or self._routed_lane is None:
            return None
        admission = self._routed_lane if request.lane == "batch" else self._routed
        engine = admission.move(sequence, request)
        if engine is not None and request.lane == "interactive" and self.batch_lane.active:
            self._routed_lane.force(request)
        return engine

    def restore(self, engine: int, *, gradually: bool = True) -> None:
        """A lost engine runs again, empty: it gets work gradually, or at once."""
        if self._routed is not None:
            self._routed.router.availability.returned(engine, gradually=gradually)
            self.due = True

    def drain(self, engine: int, *, draining: bool) -> None:
        """Start nothing on one of several engines, or end that; what runs there goes on."""
        if self._routed is not None:
            self._routed.router.availability.drain(engine, draining=draining)
            self.due = True

    def halve(self, requests: Sequence[QueuedRequest]) -> bool:
        """Queue what is left of a lock-step batch that ran out of memory again, in two halves.

        Returns False, and changes nothing, if the policy is none for lock step: it took over while
        the batch was in the engine.
        """
        policy = self.policy
        if not is_lockstep(policy):
            return False
        self.due = True
        if requests and requests[0].lane == "batch":
            for request in requests:
                self.policy.admission.leave(request.id)
            self.batch_lane.halve(halves_of(requests))
            return True
        for request in requests:
            self._batches.forget(request.id)
        policy.halve(requests)
        return True

    def use(
        self, policy: Policy, waiting: Iterable[QueuedRequest], running: Sequence[RunningSequence]
    ) -> None:
        """Switch to another policy: move the queued requests there; running ones continue."""
        routed = _routed(policy)
        if self._routed is None or routed is None:
            policy.resize(*self._pool)
            policy.admission.price(self._cost)
        else:
            routed.take_over(self._routed)
        self._routed = routed
        for request in waiting:
            if request.lane == "interactive":
                self.policy.withdraw(request.id)
                policy.arrive(request)
        self.policy = policy
        self._sharing = policy if isinstance(policy, SharingPolicy) else None
        self._ordered = policy if isinstance(policy, OrderedPolicy) else None
        policy.trust(self.trusted)
        if routed is None:
            self.batch_lane.resize(policy.admission.capacity)
        self.refresh(running)
        self.due = True

    def _started(self, dispatch: Dispatch, now_s: float) -> None:
        """Interactive requests were dispatched."""
        self._may_move.difference_update(request.id for request in dispatch.requests)
        self._batches.begin(dispatch, now_s)
        if self.batch_lane.used:
            self.batch_lane.interactive_started(dispatch.requests, now_s)

    def _dispatch_batch(
        self, now_s: float, running: Callable[[], Sequence[RunningSequence]]
    ) -> Dispatch | None:
        """The next requests of the batch lane; nothing interactive waits.

        In lock step the policy forms the batch: it is lent the next requests, and those that it
        does not take return to the lane. Until that batch has ended, it holds the engine.
        """
        lane, policy = self.batch_lane, self.policy
        if not policy.lockstep:
            return lane.dispatch(now_s, running)
        if policy.admission.stale:
            self._refresh_interactive(running())
        if not policy.admission.empty:
            return None
        lent = lane.queue.next(MAX_PER_LOCKSTEP_BATCH)
        for request in lent:
            policy.arrive(request)
        dispatch = policy.dispatch(now_s)
        taken = () if dispatch is None else dispatch.requests
        for request in lent:
            policy.withdraw(request.id)  # unknown if it was taken
        return lane.start(taken, now_s) if taken else None

    def _advance_lane(self, steps: int, engine: int) -> None:
        if self._routed_lane is None:
            self.batch_lane.admission.advance(steps)
        else:
            self._routed_lane.advance_engine(engine, steps)

    def _refresh_interactive(self, running: Sequence[RunningSequence]) -> None:
        """Admission of the policy sees the batch lane's sequences only in lock step.

        That to several engines leaves them out itself.
        """
        every = self.policy.lockstep or self._routed is not None
        self.policy.admission.refresh(running if every else self._interactive(running))

    def _interactive(self, running: Sequence[RunningSequence]) -> Sequence[RunningSequence]:
        if not self.batch_lane.running:
            return running
        return [sequence for sequence in running if sequence.lane == "interactive"]


def _routed(policy: Policy) -> RoutedAdmission | None:
    """The policy's admission if it is for several engines."""
    return policy.admission if isinstance(policy.admission, RoutedAdmission) else None
