"""The batch lane: requests of jobs, which start when nothing interactive waits.

Its admission sees all running sequences of both lanes and all pins, and leaves a reserve for
interactive requests that will arrive. The engine preempts its sequences first.
"""

from collections.abc import Callable, Sequence
from typing import Final

from gateway.scheduling.admission.future_peak import FuturePeak
from gateway.scheduling.admission.interface import Capacity
from gateway.scheduling.admission.ledger import SharedPrefixes
from gateway.scheduling.batch_lane.queue import BatchQueue
from gateway.scheduling.batch_lane.reserve import ArrivalReserve
from gateway.scheduling.dispatch import Dispatch, dispatch_of, waiting_batch_of
from gateway.scheduling.in_flight import BatchesInFlight
from gateway.scheduling.lmaas.cost import expected_length
from gateway.scheduling.lmaas.output_lengths import OutputLengths
from gateway.scheduling.requests import (
    QueuedRequest,
    RunningSequence,
    WaitingBatch,
    service,
)
from gateway.scheduling.routing.lane_admission import RoutedLaneAdmission
from gateway.scheduling.serving_time import ServingTime

MAX_PER_DISPATCH: Final = 8  # requests
MAX_PER_LOCKSTEP_BATCH: Final = 64  # requests that a lock-step policy chooses from
RUN_DECAY: Final = 0.98  # of a run's weight in the mean, per later run

RunningNow = Callable[[], Sequence[RunningSequence]]


class BatchLane:
    """Queue, admission and learned state of the lane.

    Within a tenant nothing passes the first request, and nothing passes the tenant whose turn it
    is: memory is kept until it fits. If nothing at all runs, it starts whether it fits or not.

    Memory bounds the lane, and `most_running`: more would not decode faster together.
    """

    def __init__(self, admission: FuturePeak | RoutedLaneAdmission | None = None) -> None:
        self.queue = BatchQueue()
        self.admission = FuturePeak() if admission is None else admission
        self.most_running: int | None = None  # at once; None: no limit
        self.running: dict[str, float | None] = {}  # when each started; None after an outage
        self.used = False  # whether it has had a request
        self.ends = 0
        self._reserve = ArrivalReserve()
        self._serving = ServingTime()
        self._batches = BatchesInFlight()
        self._lengths = OutputLengths()
        self._trusted = True
        self._charged: dict[str, float] = {}  # tokens of generation, by request
        self._prefixes = SharedPrefixes()  # of running members: charged with the first
        self._outdated = True
        self._run_s = 0.0
        self._weight = 0.0

    def __len__(self) -> int:
        return len(self.queue)

    @property
    def active(self) -> bool:
        """Whether it has queued or running requests."""
        return bool(self.running) or len(self.queue) > 0

    def arrive(self, request: QueuedRequest) -> None:
        """Queue a request. ValueError if its id is queued or its prompt has not its prefix."""
        prefix = request.prefix
        if prefix is not None and prefix.tokens > request.prompt_tokens:
            raise ValueError(f"request {request.id} is shorter than its shared prefix {prefix.id}")
        if not self.active:
            self._outdated = True
        self.queue.add(request)
        self.used = True

    def revise(self, requests: Sequence[QueuedRequest]) -> None:
        """Take queued or started requests as if they had arrived with these predictions."""
        for request in requests:
            charged = self._charged.get(request.id)
            if not self.queue.replace(request) and charged is not None:
                mean = expected_length(request.quantiles, request.max_tokens).mean
                self._charged[request.id] = mean
                self._charge(request, service(0, mean - charged))

    def interactive_started(self, requests: Sequence[QueuedRequest], now_s: float) -> None:
        """Requests of the other lane started."""
        capacity = self.admission.capacity
        for request in requests:
            pages = capacity.pages_for(request.prompt_tokens + request.median)
            self._reserve.started(request.id, pages, now_s, self._window_s)
            if self.active:
                self.admission.force(request)

    def interactive_ended(self, request_id: str) -> None:
        """A request of the other lane ended."""
        self._reserve.ended(request_id)
        self.admission.leave(request_id)

    def dispatch(self, now_s: float, running: RunningNow) -> Dispatch | None:
        """The next requests that fit; None if nothing is queued or fits."""
        candidates = self.queue.next(min(MAX_PER_DISPATCH, self._places))
        if not candidates:
            return None
        if self._outdated or self.admission.stale:
            self.refresh(running(), now_s)
        self.admission.withhold(self._reserve.at(now_s, self._window_s))
        fitting = self.admission.admit(candidates)
        if not fitting and self.admission.empty:  # too large: the engine accepts or refuses it
            self.admission.force(candidates[0])
            fitting = 1
        return self.start(candidates[:fitting], now_s) if fitting else None

    def start(self, requests: Sequence[QueuedRequest], now_s: float) -> Dispatch:
        """Dispatch these requests, which are queued here."""
        for request in requests:
            self.queue.remove(request.id)
            self.running[request.id] = now_s
            if request.id not in self._charged:
                self._charge_start(request)
        serving_s = self._serving.of(requests)
        dispatch = dispatch_of(requests, serving_s=serving_s, now_s=now_s, reason="arrival")
        self._batches.begin(dispatch, now_s)
        return dispatch

    def ended(self, request: QueuedRequest, generated: int, now_s: float) -> None:
        """A dispatched request left the engine with `generated` tokens."""
        self.admission.leave(request.id)
        self.ends += 1
        began_s = self.running.pop(request.id, None)
        if began_s is not None:
            self._weight = RUN_DECAY * self._weight + 1.0
            self._run_s += (now_s - began_s - self._run_s) / self._weight
        charged = self._charged.pop(request.id, None)
        if charged is not None:
            self._charge(request, service(0, generated - charged))
            self._prefixes.leave(request.id)
        outcome = self._batches.settle(request, generated, now_s)
        if outcome is not None:
            self._serving.observe(*outcome)
        if self._lengths.add(generated) and not self._trusted:
            self.admission.assume(self._lengths.quantiles)

    def trust(self, trusted: bool) -> None:
        """While predictions are not trusted, lengths are distributed like the recent ones."""
        self._trusted = trusted
        self.admission.assume(None if trusted else self._lengths.quantiles)

    def refresh(self, running: Sequence[RunningSequence], now_s: float | None = None) -> None:
        """Recompute admission from the sequences of both lanes."""
        self.admission.refresh(running)
        self._outdated = False
        if now_s is not None:
            capacity = self.admission.capacity
            others = [each for each in running if each.lane == "interactive" and not each.suspended]
            self._reserve.begin(now_s, sum(capacity.pages_for(each.kv_tokens) for each in others))

    def resize(self, capacity: Capacity, engine: int = 0) -> None:
        """Set the size of an engine's pool."""
        if isinstance(self.admission, RoutedLaneAdmission):
            self.admission.resize_engine(engine, capacity)
        else:
            self.admission.resize(Capacity(capacity.pages, capacity.page_tokens))
        self._outdated = True

    def interrupt(self) -> None:
        """The engine stopped: drop batches in flight, whose serving times would be distorted."""
        self._batches.clear()
        self.running = dict.fromkeys(self.running)

    def halve(self, halves: Sequence[Sequence[QueuedRequest]]) -> None:
        """Queue the halves of a lock-step batch again, in front of all others."""
        for half in halves:
            for request in half:
                self._batches.forget(request.id)
                self.running.pop(request.id, None)
                self.admission.leave(request.id)
            self.queue.add_half(half)

    def waiting(self, now_s: float) -> list[WaitingBatch]:
        """The queued requests in order, those of a tenant together."""
        return [
            waiting_batch_of(
                f"batch {place}", group, serving_s=self._serving.of(group), now_s=now_s
            )
            for place, group in enumerate(self.queue.ordered(), 1)
        ]

    @property
    def _places(self) -> int:
        """How many more may run, as far as memory allows."""
        if self.most_running is None:
            return MAX_PER_DISPATCH
        return max(self.most_running - len(self.running), 0)

    @property
    def _window_s(self) -> float:
        """The time of one mean run; before the first has ended, that of the next request."""
        if self._weight:
            return self._run_s
        first = self.queue.next(1)
        return self._serving.of(first) if first else 0.0

    def _charge_start(self, request: QueuedRequest) -> None:
        """Charge the prompt tokens to compute, and the mean generation.

        A prefix is computed, and charged, with the first member.
        """
        mean = expected_length(request.quantiles, request.max_tokens).mean
        prompt, prefix = request.prompt_tokens, request.prefix
        if prefix is not None:
            prompt -= prefix.tokens if self._prefixes.holds(prefix.id) else 0
            self._prefixes.join(request.id, prefix)
        self._charged[request.id] = mean
        self._charge(request, service(prompt, mean))

    def _charge(self, request: QueuedRequest, tokens: float) -> None:
        self.queue.shares.charge(request.tenant, tokens * request.charge_weight)
