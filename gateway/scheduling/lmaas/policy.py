"""The default policy: shares between tenants, and in each the response ratio, within bounds."""

from collections.abc import Sequence
from itertools import count
from typing import ClassVar, Final, Literal

from gateway.scheduling.admission.interface import Admission, Capacity
from gateway.scheduling.dispatch import Dispatch, dispatch_of, waiting_batch_of
from gateway.scheduling.lmaas.cost import joining_cost, risk_adjusted, risk_of
from gateway.scheduling.lmaas.cost_class import CostClass, Entry
from gateway.scheduling.lmaas.deadlines import Window, window_of
from gateway.scheduling.lmaas.fair_share import FairShare, service
from gateway.scheduling.lmaas.output_lengths import OutputLengths
from gateway.scheduling.lmaas.tenant_queue import Bounds, Candidates, TenantQueue
from gateway.scheduling.requests import QueuedRequest, WaitingBatch
from gateway.scheduling.serving_time import ServingTime

SHORT: Final = 2  # requests; so few are served in order of arrival


class LmaasPolicy:
    """Shares, then deadlines and bounds, then ranks on the risk-adjusted length.

    What is next goes next: where it does not fit, memory gathers for it and nothing passes. While
    predictions are not trusted, or hardly anything waits, requests go in order of arrival.
    """

    lockstep: ClassVar = False

    def __init__(self, name: str, *, admission: Admission, bounds: Bounds) -> None:
        self.name = name
        self.admission = admission
        self.shares = FairShare()
        self._bounds = bounds
        self._class_names = map("c{}".format, count(1))
        self._serials = count()
        self._serving = ServingTime()
        self._marginal = OutputLengths()
        self._trusted = True
        self._tenants: dict[str, TenantQueue] = {}
        self._waiting: dict[str, Entry] = {}
        self._charged: dict[str, float] = {}  # tokens of generation, by request
        self._now_s = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def order(self) -> Literal["policy", "arrival"]:
        """What it goes by now."""
        return "policy" if self._trusted and len(self) > SHORT else "arrival"

    def arrive(self, request: QueuedRequest) -> None:
        """Let a request wait. ValueError if one with this id waits already."""
        if request.id in self._waiting:
            raise ValueError(f"request {request.id} waits already; ids must differ")
        generation = risk_adjusted(request)
        entry = Entry(
            serial=next(self._serials),
            request=request,
            serving_s=self._seconds(request, generation),
            cost=joining_cost(request.prompt_tokens, generation),
        )
        queue = self._tenants.get(request.tenant)
        if queue is None:
            queue = self._tenants[request.tenant] = TenantQueue(self._bounds, self._class_names)
        if not queue:
            self.shares.enter(request.tenant)
        self._waiting[request.id] = entry
        self._now_s = max(self._now_s, request.arrived_s)
        queue.add(entry, self._window(request), self._now_s)

    def withdraw(self, request_id: str) -> bool:
        """Forget a waiting request; False if it does not wait here."""
        entry = self._waiting.get(request_id)
        if entry is None:
            return False
        self._remove(entry)
        return True

    def dispatch(self, now_s: float) -> Dispatch | None:
        """What is next of the tenant whose turn it is, as much of it as fits."""
        self._now_s = max(self._now_s, now_s)
        tenant = self.shares.lowest()
        if tenant is None:
            return None
        found = self._tenants[tenant].next(now_s, by_arrival=self.order == "arrival")
        fitting = self.admission.admit([entry.request for entry in found.entries])
        if not fitting and self.admission.empty:  # the engine has the last word
            self.admission.force(found.entries[0].request)
            fitting = 1
        return self._dispatched(found, fitting) if fitting else None

    def ended(self, request: QueuedRequest, generated: int, now_s: float) -> None:
        """A dispatched request ended: its memory is free, its charge is settled."""
        self._now_s = max(self._now_s, now_s)
        self.admission.leave(request.id)
        charged = self._charged.pop(request.id, None)
        if charged is not None:  # else another policy dispatched it
            self._charge(request, service(0, generated - charged))
        if self._marginal.add(generated) and not self._trusted:
            self.admission.assume(self._marginal.quantiles)

    def observe(
        self, size: int, prompt_tokens: int, generation_tokens: float, serving_s: float
    ) -> None:
        """Learn how long requests run."""
        self._serving.observe(size, prompt_tokens, generation_tokens, serving_s)

    def give_up(self, now_s: float) -> list[QueuedRequest]:
        """Withdraws the requests whose deadline cannot be met any more."""
        self._now_s = max(self._now_s, now_s)
        hopeless = [entry for queue in self._tenants.values() for entry in queue.hopeless(now_s)]
        for entry in hopeless:
            self._remove(entry)
        return [entry.request for entry in hopeless]

    def trust(self, trusted: bool) -> None:
        """Whether predictions hold.

        While they do not, requests go in order of arrival, and each is taken to be as long as any.
        """
        if trusted != self._trusted:
            self._trusted = trusted
            for queue in self._tenants.values():
                queue.watch_anew(self._window)
        self.admission.assume(None if trusted else self._marginal.quantiles)

    def resize(self, pages: int, page_tokens: int) -> None:
        """Admit to a KV pool of this size from now on; what waits stays."""
        self.admission.resize(Capacity(pages, page_tokens))

    def waiting(self, now_s: float) -> Sequence[WaitingBatch]:
        """The batches that wait: tenants by their turn, in each as it goes by now."""
        by_arrival = self.order == "arrival"
        return [
            self._shown(batch, now_s)
            for tenant in self.shares.lowest_first()
            for batch in self._tenants[tenant].batches(now_s, by_arrival=by_arrival)
        ]

    def check(self) -> None:
        """AssertionError where queues and shares disagree."""
        self.shares.check()
        assert len(self._waiting) == sum(len(queue) for queue in self._tenants.values())
        for queue in self._tenants.values():
            queue.check()

    def _shown(self, batch: CostClass, now_s: float) -> WaitingBatch:
        requests = [entry.request for entry in batch.first(len(batch.members))]
        serving_s = self._serving.of(requests)
        return waiting_batch_of(batch.name, requests, serving_s=serving_s, now_s=now_s)

    def _dispatched(self, found: Candidates, fitting: int) -> Dispatch:
        requests = [entry.request for entry in found.entries[:fitting]]
        for entry in found.entries[:fitting]:
            request = entry.request
            mean = risk_of(request.quantiles, request.max_tokens).mean
            self._charged[request.id] = mean
            self._charge(request, service(request.prompt_tokens, mean))
            self._remove(entry)
        return dispatch_of(
            requests,
            serving_s=self._serving.of(requests),
            now_s=self._now_s,
            reason=found.reason,
        )

    def _remove(self, entry: Entry) -> None:
        request = entry.request
        queue = self._tenants[request.tenant]
        del self._waiting[request.id]
        queue.remove(entry, self._now_s)
        if not queue:
            self.shares.leave(request.tenant)

    def _charge(self, request: QueuedRequest, tokens: float) -> None:
        self.shares.charge(request.tenant, tokens * request.urgency / request.share)

    def _window(self, request: QueuedRequest) -> Window:
        return window_of(request, lambda n: self._seconds(request, n), trusted=self._trusted)

    def _seconds(self, request: QueuedRequest, generation_tokens: float) -> float:
        return self._serving.estimate(1, request.prompt_tokens, generation_tokens)
