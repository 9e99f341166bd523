"""The queue of requests whose keys and values will be in host memory."""

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from gateway.scheduling.dispatch import Dispatch, response_ratio
from gateway.scheduling.requests import QueuedRequest

PROMPT_COST: Final = 0.05  # of a token of the answer; a guess, which only ranks requests


class _Held(NamedTuple):
    tenant: str
    pages: int


class HostLane:
    """Starts requests as far as host memory holds them, and divides it between tenants.

    The next request is of the tenant that holds the least memory for its share (max-min fairness).
    Of that tenant's it is the one with the highest response ratio R = (W + S)/S (HRRN; Magnus,
    arXiv 2406.04785), with S in proportion to the predicted work. Each reserves the pages of its
    prompt and its predicted 90 % quantile, as in S³ (arXiv 2306.06000). One that does not fit
    blocks the others, so none starves.
    """

    def __init__(self) -> None:
        self._pages = 0
        self._page_tokens = 1
        self._waiting: dict[str, QueuedRequest] = {}
        self._held: dict[str, _Held] = {}  # by request in the engine

    def __len__(self) -> int:
        """The number of waiting requests."""
        return len(self._waiting)

    @property
    def held_pages(self) -> int:
        """Pages that are reserved for the requests in the engine."""
        return sum(held.pages for held in self._held.values())

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
        return Dispatch((request,), _work(request), _ratio(request, now_s), waited_s)

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
        return -(-(request.prompt_tokens + self.reserve(request)) // self._page_tokens)

    def _hold(self, request: QueuedRequest) -> None:
        self._held[request.id] = _Held(request.tenant, self.pages_of(request))

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
