"""The default policy: shares; within them, waiting time against cost."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from math import log
from typing import ClassVar, Final, Literal

from msgspec.structs import replace

from gateway.scheduling.admission.interface import Admission, Capacity
from gateway.scheduling.dispatch import Dispatch, dispatch_of, waiting_batch_of
from gateway.scheduling.lmaas.cost import expected_length, request_cost, risk_adjusted_length
from gateway.scheduling.lmaas.cost_class import CostClass, QueueEntry
from gateway.scheduling.lmaas.deadlines import StartLimits, start_limits
from gateway.scheduling.lmaas.fair_share import FairShare
from gateway.scheduling.lmaas.inner_shares import Level, ShareLevel
from gateway.scheduling.lmaas.output_lengths import OutputLengths
from gateway.scheduling.lmaas.tenant_queue import Candidates, OrderBounds, TenantQueue
from gateway.scheduling.lmaas.tenant_usage import TenantUsage
from gateway.scheduling.requests import QueuedRequest, RunningSequence, WaitingBatch, service
from gateway.scheduling.serving_time import ServingTime
from gateway.scheduling.waits.snapshot import RankedQueue, RankedRequest, TenantOrder

MAX_SHORT_QUEUE: Final = 2  # requests; a queue this short is served in order of arrival


class LmaasPolicy:
    """Tenants by share; within a tenant by deadline and delay bound, then by rank.

    If the next request does not fit, nothing passes it: memory is kept until it fits. While
    predictions are not trusted, or the queue is short, order is by arrival.
    """

    lockstep: ClassVar = False

    def __init__(
        self,
        name: str,
        *,
        admission: Admission,
        bounds: OrderBounds,
        makes_room: bool = True,
        share_level: ShareLevel = "user",
    ) -> None:
        self.name = name
        self.admission = admission
        self.shares = FairShare()
        self._bounds = bounds
        self._makes_room = makes_room
        self._share_level = share_level
        self._class_names = map("c{}".format, count(1))
        self._serials = count()
        self._serving = ServingTime()
        self._output_lengths = OutputLengths()
        self._trusted = True
        self._tenants: dict[str, TenantQueue] = {}
        self._waiting: dict[str, QueueEntry] = {}
        self._charged: dict[str, float] = {}  # tokens of generation, by request
        self._queued_shares: dict[str, float] = {}  # of tenants with queued requests
        self._dispatched_by: Counter[str] = Counter()  # requests that have not ended, by tenant
        self._room_for: dict[str, str] = {}  # by tenant, the request that room was made for last
        self._now_s = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def order(self) -> Literal["policy", "arrival"]:
        """The order now: `arrival` where it falls back to first come, first served."""
        return "policy" if self._trusted and len(self) > MAX_SHORT_QUEUE else "arrival"

    def arrive(self, request: QueuedRequest) -> None:
        """Queue a request. ValueError if one with this id is queued already."""
        if request.id in self._waiting:
            raise ValueError(f"request {request.id} waits already; ids must differ")
        serving_s, cost = self._work_of(request)
        entry = QueueEntry(next(self._serials), request, serving_s, cost)
        queue = self._tenants.get(request.tenant)
        if queue is None:
            queue = self._tenants[request.tenant] = TenantQueue(
                self._bounds, self._class_names, self._share_level
            )
        if not queue:
            self.shares.enter(request.tenant)
        self._queued_shares[request.tenant] = request.share
        self._waiting[request.id] = entry
        self._now_s = max(self._now_s, request.arrived_s)
        queue.add(entry, self._start_limits(request), self._now_s)

    def revise(self, requests: Sequence[QueuedRequest]) -> None:
        """Take queued or started requests as if they had arrived with these predictions.

        Of a started one, the charge is corrected; unknown ones are ignored.
        """
        for request in requests:
            entry = self._waiting.get(request.id)
            if entry is None:
                self._revise_charge(request)
                continue
            serving_s, cost = self._work_of(request)
            self._tenants[request.tenant].revise(
                entry,
                request,
                serving_s=serving_s,
                cost=cost,
                limits=self._start_limits(request),
                now_s=self._now_s,
            )

    def withdraw(self, request_id: str) -> bool:
        """Remove a queued request; False if it is not queued here."""
        entry = self._waiting.get(request_id)
        if entry is None:
            return False
        self._remove(entry)
        return True

    def dispatch(self, now_s: float) -> Dispatch | None:
        """The next requests of the tenant with the lowest counter, as many as fit."""
        self._now_s = max(self._now_s, now_s)
        tenant = self.shares.lowest()
        if tenant is None:
            return None
        candidates = self._next_of(tenant, now_s)
        fitting = self.admission.admit([entry.request for entry in candidates.entries])
        if not fitting and self.admission.empty:  # too large: the engine accepts or refuses it
            self.admission.force(candidates.entries[0].request)
            fitting = 1
        return self._dispatched(candidates, fitting) if fitting else None

    def head(self, now_s: float) -> QueuedRequest | None:
        """The next request of the tenant with the lowest counter; None if nothing is queued."""
        tenant = self.shares.lowest()
        return None if tenant is None else self._next_of(tenant, now_s).entries[0].request

    def start_head(self, now_s: float) -> Dispatch:
        """Start the head without memory of the device; its tenant is charged as for any start."""
        self._now_s = max(self._now_s, now_s)
        tenant = self.shares.lowest()
        assert tenant is not None, "nothing is queued"
        return self._dispatched(self._next_of(tenant, now_s), 1)

    def over_share(self, running: Sequence[RunningSequence]) -> frozenset[str]:
        """Tenants whose running sequences hold more than their share: preempted first."""
        return TenantUsage(running, self._queued_shares).over

    def make_room(
        self, now_s: float, running: Callable[[], Sequence[RunningSequence]], free_pages: int
    ) -> Dispatch | None:
        """A request of a tenant under its share, and what to preempt for it; None if there is none.

        Room is made for one request of a tenant at a time: the next one waits for its first token.
        """
        tenants_present = self._queued_shares.keys() | self._dispatched_by.keys()
        if not self._makes_room or len(tenants_present) == 1:
            return None
        sequences = running()
        usage = TenantUsage(sequences, self._queued_shares)
        starting = {sequence.id for sequence in sequences if not sequence.generated}
        self._room_for = {t: r for t, r in self._room_for.items() if r in starting}
        tenants = [t for t in self._queued_shares if t not in self._room_for and usage.is_under(t)]
        if not tenants:
            return None
        tenant = min(tenants, key=lambda each: (self.shares.counter(each), each))
        candidates = self._next_of(tenant, now_s)
        request = candidates.entries[0].request
        pages = self.admission.capacity.pages_for(
            request.prompt_tokens + self.admission.reserve(request)
        )
        victims = usage.victims(sequences, pages - free_pages, self.admission.capacity)
        if not victims:
            return None
        self.admission.force(request)
        self._room_for[tenant] = request.id
        dispatch = self._dispatched(candidates, 1)
        return replace(dispatch, preempt=tuple(victim.id for victim in victims))

    def ended(self, request: QueuedRequest, generated: int, now_s: float) -> None:
        """A dispatched request ended: release its memory and correct its tenant's charge."""
        self._now_s = max(self._now_s, now_s)
        self.admission.leave(request.id)
        charged = self._charged.pop(request.id, None)
        if charged is not None:  # else another policy dispatched it
            self._dispatched_by[request.tenant] -= 1
            if not self._dispatched_by[request.tenant]:
                del self._dispatched_by[request.tenant]
            self._charge(request, service(0, generated - charged))
            self._tenants[request.tenant].ended(service(request.prompt_tokens, generated))
        if self._output_lengths.add(generated) and not self._trusted:
            self.admission.assume(self._output_lengths.quantiles)

    def observe(
        self, size: int, prompt_tokens: int, generation_tokens: float, serving_s: float
    ) -> None:
        """Learn the serving time of a batch."""
        self._serving.observe(size, prompt_tokens, generation_tokens, serving_s)

    def holding_back(self, request_id: str) -> Level | None:
        """Whether a queued request waits for its app's or user's share; None also if not queued."""
        entry = self._waiting.get(request_id)
        if entry is None:
            return None
        return self._tenants[entry.request.tenant].holding_back(entry.request)

    def give_up(self, now_s: float) -> list[QueuedRequest]:
        """Remove and return the requests whose deadline can no longer be met."""
        self._now_s = max(self._now_s, now_s)
        infeasible = [
            entry for queue in self._tenants.values() for entry in queue.infeasible(now_s)
        ]
        for entry in infeasible:
            self._remove(entry)
        return [entry.request for entry in infeasible]

    def trust(self, trusted: bool) -> None:
        """Set whether predictions are reliable.

        While they are not, order is by arrival, and admission takes each request to be distributed
        like the recent answers.
        """
        if trusted != self._trusted:
            self._trusted = trusted
            for queue in self._tenants.values():
                queue.reset_limits(self._start_limits)
        self.admission.assume(None if trusted else self._output_lengths.quantiles)

    def resize(self, pages: int, page_tokens: int, max_running: int | None = None) -> None:
        """Set the size of the KV pool and the most running sequences; queued requests stay."""
        self.admission.resize(Capacity(pages, page_tokens, max_running))

    def waiting(self, now_s: float) -> Iterator[WaitingBatch]:
        """The queued batches: tenants by counter, each tenant's in its present order."""
        by_arrival = self.order == "arrival"
        for tenant in self.shares.lowest_first():
            for batch in self._tenants[tenant].batches(now_s, by_arrival=by_arrival):
                yield self._waiting_batch(batch, now_s)

    @property
    def batches(self) -> int:
        """Number of queued batches."""
        return sum(self._tenants[tenant].class_count for tenant in self._queued_shares)

    def ranked(self, now_s: float) -> Callable[[], RankedQueue]:
        """Note the queue as it is; the returned function ranks it, and may run in any thread."""
        entries, by_arrival = list(self._waiting.values()), not self._trusted
        tenants = {
            tenant: TenantOrder(
                self.shares.counter(tenant),
                1.0 if by_arrival else self._tenants[tenant].gain_per_s,
            )
            for tenant in self._queued_shares
        }

        def rank() -> RankedQueue:
            if by_arrival:
                ranks = [now_s - entry.request.arrived_s for entry in entries]
            else:
                gains = {tenant: order.gain_per_s for tenant, order in tenants.items()}
                ranks = [entry.rank(now_s, gains[entry.request.tenant]) for entry in entries]
            requests = [entry.request for entry in entries]
            return RankedQueue(list(map(RankedRequest, requests, ranks)), tenants)

        return rank

    def rank_of(self, request_id: str, now_s: float) -> float | None:
        """The rank of one queued request; None if it is not queued."""
        entry = self._waiting.get(request_id)
        if entry is None:
            return None
        if not self._trusted:
            return now_s - entry.request.arrived_s
        return entry.rank(now_s, self._tenants[entry.request.tenant].gain_per_s)

    def rank_of_new(self, request: QueuedRequest) -> float:
        """The rank that a request would have if it arrived now."""
        if not self._trusted:
            return 0.0
        serving_s, cost = self._work_of(request)
        queue = self._tenants.get(request.tenant)
        credit = 0.0 if queue is None else queue.gain_per_s * queue.credit_s(serving_s)
        return credit * request.urgency + log(request.urgency / cost)

    def check(self) -> None:
        """AssertionError if queues and shares disagree."""
        self.shares.check()
        assert len(self._waiting) == sum(len(queue) for queue in self._tenants.values())
        for queue in self._tenants.values():
            queue.check()

    def _waiting_batch(self, batch: CostClass, now_s: float) -> WaitingBatch:
        requests = [entry.request for entry in batch.members.values()]
        serving_s = self._serving.of(requests)
        return waiting_batch_of(
            batch.name, requests, serving_s=serving_s, now_s=now_s, ordered=batch.ordered
        )

    def _next_of(self, tenant: str, now_s: float) -> Candidates:
        """The next requests of a tenant."""
        return self._tenants[tenant].next(now_s, by_arrival=self.order == "arrival")

    def _dispatched(self, candidates: Candidates, fitting: int) -> Dispatch:
        requests = [entry.request for entry in candidates.entries[:fitting]]
        for entry in candidates.entries[:fitting]:
            request = entry.request
            mean = expected_length(request.quantiles, request.max_tokens).mean
            self._charged[request.id] = mean
            self._dispatched_by[request.tenant] += 1
            self._charge(request, service(request.prompt_tokens, mean), start=True)
            self._remove(entry)
        return dispatch_of(
            requests,
            serving_s=self._serving.of(requests),
            now_s=self._now_s,
            reason=candidates.reason,
        )

    def _work_of(self, request: QueuedRequest) -> tuple[float, float]:
        """The serving time S of a request, and its cost in KV token-steps."""
        generation = risk_adjusted_length(request)
        serving_s = self._serving_s(request, generation)
        return serving_s, request_cost(request.prompt_tokens, generation)

    def _revise_charge(self, request: QueuedRequest) -> None:
        """Correct the charge of a started request, if this policy dispatched it."""
        charged = self._charged.get(request.id)
        if charged is not None:
            mean = expected_length(request.quantiles, request.max_tokens).mean
            self._charged[request.id] = mean
            self._charge(request, service(0, mean - charged))

    def _remove(self, entry: QueueEntry) -> None:
        request = entry.request
        queue = self._tenants[request.tenant]
        del self._waiting[request.id]
        queue.remove(entry, self._now_s)
        if not queue:
            self.shares.leave(request.tenant)
            del self._queued_shares[request.tenant]

    def _charge(self, request: QueuedRequest, tokens: float, *, start: bool = False) -> None:
        """Charge service at a request's start, or correct it later."""
        self.shares.charge(request.tenant, tokens * request.charge_weight)
        queue = self._tenants[request.tenant]
        if start:
            queue.started(request, tokens)
        else:
            queue.corrected(request, tokens)

    def _start_limits(self, request: QueuedRequest) -> StartLimits:
        return start_limits(request, lambda n: self._serving_s(request, n), trusted=self._trusted)

    def _serving_s(self, request: QueuedRequest, generation_tokens: float) -> float:
        return self._serving.estimate(1, request.prompt_tokens, generation_tokens)
