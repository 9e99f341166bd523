"""Host memory: who has it, the queue of those that need it, and what they add to steps."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from msgspec import Struct

from gateway.scheduling.dispatch import Dispatch, response_ratio
from gateway.scheduling.requests import HostPlacement, QueuedRequest

PROMPT_COST: Final = 0.05  # of a token of the answer; a guess, which only ranks requests


class RowCost(NamedTuple):
    """Seconds that sequences in host memory add to a step in which they decode.

    `step_s` for all of a placement together, `row_s` for each, `token_s` for each of its KV tokens.
    """

    step_s: float
    row_s: float
    token_s: float

    def seconds(self, kv_tokens: float) -> float:
        """What one more adds with this number of tokens."""
        return self.row_s + self.token_s * kv_tokens


class HostCosts(Struct, frozen=True):
    """The measured costs of sequences in host memory, by placement; one that lacks is not served.

    A part of a prompt takes `fetch_s` longer for each token before it. The rest of a step takes
    longer by `slowdown` times its seconds if any such sequence is in it.
    """

    rows: Mapping[HostPlacement, RowCost]
    fetch_s: float
    slowdown: float = 0.0


class _Held(NamedTuple):
    tenant: str
    pages: int
    placement: HostPlacement | None
    kv_tokens: float  # halfway through the answer


class HostLane:
    """Starts requests as far as host memory holds them, and divides it between tenants.

    The next request is of the tenant that holds the least memory for its share (max-min fairness).
    Of that tenant's it is the one with the highest response ratio R = (W + S)/S (HRRN; Magnus,
    arXiv 2406.04785), with S in proportion to the predicted work. Each reserves the pages of its
    prompt and its predicted 90 % quantile, as in S³ (arXiv 2306.06000). One that does not fit
    blocks the others, so none starves.

    `take` starts one that is queued elsewhere, as the device could hold it. `costs` are what such
    sequences cost the engine; None: it is not known.
    """

    def __init__(self) -> None:
        self._pages = 0
        self._page_tokens = 1
        self._waiting: dict[str, QueuedRequest] = {}
        self._held: dict[str, _Held] = {}  # by request in the engine
        self.costs: HostCosts | None = None

    def __len__(self) -> int:
        """The number of waiting requests."""
        return len(self._waiting)

    @property
    def held_pages(self) -> int:
        """Pages that are reserved for the requests in the engine."""
        return sum(held.pages for held in self._held.values())

    @property
    def running(self) -> int:
        """The number of requests in the engine."""
        return len(self._held)

    @property
    def tokens(self) -> int:
        """Tokens that the memory holds."""
        return self._pages * self._page_tokens

    @property
    def mean_row(self) -> RowCost:
        """The mean cost of a request in the engine, of one that waits if there are none.

        What all of them cost together is divided among them.
        """
        costs = self.costs
        held = [each.placement for each in self._held.values()]
        placements = held or [request.host for request in self._waiting.values()]
        known = {} if costs is None else costs.rows
        rows = [known[each] for each in placements if each is not None and each in known]
        count = max(len(rows), 1)
        shared_s = sum(row.step_s for row in set(rows)) / count
        return RowCost(
            0.0,
            shared_s + sum(row.row_s for row in rows) / count,
            sum(row.token_s for row in rows) / count,
        )

    def rank(self, request: QueuedRequest, now_s: float) -> float:
        """The response ratio of a request; of a tenant's requests the highest is next."""
        return _ratio(request, now_s)

    def queued(self) -> list[QueuedRequest]:
        """The waiting requests, in order of arrival."""
        return [*self._waiting.values()]

    def added_s(self, step_s: float) -> float:
        """What the requests in the engine add to a step that takes the others `step_s`."""
        costs = self.costs
        if costs is None or not self._held:
            return 0.0
        present = {held.placement for held in self._held.values()}
        added_s = costs.slowdown * step_s
        added_s += sum(row.step_s for place, row in costs.rows.items() if place in present)
        for held in self._held.values():
            row = None if held.placement is None else costs.rows.get(held.placement)
            added_s += 0.0 if row is None else row.seconds(held.kv_tokens)
        return added_s

    def resize(self, pages: int, page_tokens: int) -> None:
        """Set the size of the host memory."""
        self._pages, self._page_tokens = pages, page_tokens

    def arrive(self, request: QueuedRequest) -> None:
        """Queue a request. ValueError if one with this id is queued already."""
        if request.id in self._waiting:
            raise ValueError(f"request {request.id} is queued already")
        self._waiting[request.id] = request

    def revise(self, requests: Iterable[QueuedRequest]) -> None:
        """Take known requests with other predictions."""
        for request in requests:
            if request.id in self._waiting:
                self._waiting[request.id] = request
            elif request.id in self._held:
                self._hold(request)

    def withdraw(self, request_id: str) -> None:
        """Remove a queued request; an unknown one is ignored."""
        self._waiting.pop(request_id, None)

    def give_up(self, now_s: float) -> list[QueuedRequest]:
        """Remove the requests that should have started, or ended, by now."""
        late = [
            request
            for request in self._waiting.values()
            if min(_or_never(request.start_by_s), _or_never(request.deadline_s)) <= now_s
        ]
        for request in late:
            del self._waiting[request.id]
        return late

    def dispatch(self, now_s: float) -> Dispatch | None:
        """The next request to start; None if there is none, or it does not fit yet."""
        if not self._waiting:
            return None
        use = self._use()
        request = max(
            self._waiting.values(),
            key=lambda each: (-use[each.tenant] / each.share, _ratio(each, now_s)),
        )
        pages = self.pages_of(request)
        if self._held and self.held_pages + pages > self._pages:
            return None
        del self._waiting[request.id]
        self._hold(request)
        waited_s = max(now_s - request.arrived_s, 0.0)
        ratio = _ratio(request, now_s)
        return Dispatch((request,), _work(request), ratio, waited_s, on_host=True)

    def first_s(self, placement: HostPlacement, step_s: float) -> float:
        """What the first request of a placement adds to a step, besides its row."""
        costs = self.costs
        if costs is None or any(held.placement == placement for held in self._held.values()):
            return 0.0
        slowed_s = 0.0 if self._held else costs.slowdown * step_s
        return slowed_s + costs.rows[placement].step_s

    def room_for(self, request: QueuedRequest) -> int:
        """How many like this request fit next to those in the engine."""
        return max(self._pages - self.held_pages, 0) // self.pages_of(request)

    def has_room(self, request: QueuedRequest) -> bool:
        """Whether a request that is queued elsewhere may start here now.

        Those that are queued here come first: the device cannot hold them.
        """
        if self._waiting or self._pages_for(request.max_tokens, request) > self._pages:
            return False
        return self.room_for(request) > 0

    def take(self, request: QueuedRequest) -> None:
        """Start a request that was queued elsewhere."""
        self._hold(request)

    def resumed(self, request: QueuedRequest) -> None:
        """A request runs again that ran on an engine that was lost."""
        self._hold(request)

    def ended(self, request_id: str) -> None:
        """A request left the engine; an unknown one is ignored."""
        self._held.pop(request_id, None)

    def reserve(self, request: QueuedRequest) -> int:
        """Tokens of generation for which the engine reserves memory, at least 1."""
        return max(1, min(request.max_tokens, round(request.p90)))

    def pages_of(self, request: QueuedRequest) -> int:
        """Pages that are reserved for a request."""
        return self._pages_for(self.reserve(request), request)

    def _pages_for(self, generated: int, request: QueuedRequest) -> int:
        return -(-(request.prompt_tokens + generated) // self._page_tokens)

    def _hold(self, request: QueuedRequest) -> None:
        kv_tokens = request.prompt_tokens + request.median / 2
        self._held[request.id] = _Held(
            request.tenant, self.pages_of(request), request.host, kv_tokens
        )

    def _use(self) -> Counter[str]:
        """The pages that are reserved for each tenant."""
        use: Counter[str] = Counter()
        for held in self._held.values():
            use[held.tenant] += held.pages
        return use


def _ratio(request: QueuedRequest, now_s: float) -> float:
    return response_ratio(request.urgency * (now_s - request.arrived_s), _work(request))


def _work(request: QueuedRequest) -> float:
    """The predicted work, in tokens of an answer."""
    return max(request.median, 1.0) + PROMPT_COST * request.prompt_tokens


def _or_never(time_s: float | None) -> float:
    return float("inf") if time_s is None else time_s
