"""The plain orders: each request by itself, highest rank first, none passed by one that fits."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from gateway.scheduling.admission import Admission
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.plain import PlainPolicy
from gateway.scheduling.response_ratio import Line, ratio_line
from gateway.scheduling.serving_time import Pace, same_order, serving_seconds
from gateway.scheduling.tournament import Tournament
from gateway.scheduling.waiting import Waiting, WaitingBatch

Rank: TypeAlias = Callable[[Waiting, float], Line]
"""A request's rank over time, given its serving time S in seconds."""


def by_arrival(request: Waiting, _serving_s: float) -> Line:
    """First come, first served."""
    return Line(0.0, request.arrived_s, 1.0)


def by_length(request: Waiting, _serving_s: float) -> Line:
    """Shortest predicted generation (median) first."""
    return Line(-request.median, 0.0, 0.0)


def by_ratio(request: Waiting, serving_s: float) -> Line:
    """Highest response ratio next."""
    return ratio_line(request.arrived_s, serving_s)


class RankedPolicy(PlainPolicy):
    """Requests by rank, one at a time, as long as the first fits; no bound on what passes one."""

    def __init__(self, name: str, rank: Rank, *, admission: Admission, ids: Iterator[str]) -> None:
        super().__init__(name, admission=admission, ids=ids)
        self._rank = rank
        self._waiting: dict[str, Waiting] = {}
        self._ranking = Tournament()
        self._ranked_pace = self._serving.pace

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting

    def arrive(self, request: Waiting) -> None:
        """Let a request wait. ValueError if one with this id waits already."""
        if request.id in self._waiting:
            raise ValueError(f"request {request.id} waits already; ids must differ")
        self._waiting[request.id] = request
        self._ranking.put(request.id, self._line(request))
        self._watch(request)

    def withdraw(self, request_id: str) -> bool:
        """Forget a waiting request; False if it does not wait here."""
        if self._waiting.pop(request_id, None) is None:
            return False
        self._ranking.discard(request_id)
        return True

    def dispatch(self, now_s: float) -> Dispatch | None:
        """The first request if it fits, or if nothing runs."""
        first = next(self._ranking.ranked(now_s), None)
        if first is None:
            return None
        request = self._waiting[first]
        if not self.admission.admit([request]):
            if not self.admission.empty:
                return None
            self.admission.force(request)
        self.withdraw(first)
        return self._dispatch([request], now_s)

    def observe(
        self, size: int, prompt_tokens: int, generation_tokens: float, serving_s: float
    ) -> None:
        """Learn a serving time; rank all anew once that would change their order."""
        super().observe(size, prompt_tokens, generation_tokens, serving_s)
        if not same_order(self._ranked_pace, self._serving.pace):
            self._ranked_pace = self._serving.pace
            self._ranking.put_all({key: self._line(r) for key, r in self._waiting.items()})

    def waiting(self, now_s: float) -> Sequence[WaitingBatch]:
        """Every request as a batch of its own, highest rank first."""
        order = [self._waiting[key] for key in self._ranking.ranked(now_s)]
        return [self._shown(request.id, [request], now_s) for request in order]

    def check(self) -> None:
        """AssertionError where requests and ranking disagree."""
        self._ranking.check()
        assert len(self._ranking) == len(self._waiting)

    def _line(self, request: Waiting) -> Line:
        return self._rank(request, _serving_s(self._ranked_pace, request))


def _serving_s(pace: Pace, request: Waiting) -> float:
    return serving_seconds(pace, 1, request.prompt_tokens, request.median)
