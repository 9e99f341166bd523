"""The orders by rank: each request by itself, highest first, none passed by one that fits."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import TypeAlias

from gateway.scheduling.admission.interface import Admission
from gateway.scheduling.baselines.base import PlainPolicy
from gateway.scheduling.baselines.kinetic_tournament import KineticTournament
from gateway.scheduling.dispatch import RankLine, ratio_line
from gateway.scheduling.requests import QueuedRequest
from gateway.scheduling.serving_time import same_order, serving_seconds

Rank: TypeAlias = Callable[[QueuedRequest, float], RankLine]
"""A request's rank over time, given its serving time S in seconds."""


def by_length(request: QueuedRequest, _serving_s: float) -> RankLine:
    """Shortest predicted generation (median) first."""
    return RankLine(-request.median, 0.0, 0.0)


def by_ratio(request: QueuedRequest, serving_s: float) -> RankLine:
    """Highest response ratio next."""
    return ratio_line(request.arrived_s, serving_s)


class RankedPolicy(PlainPolicy):
    """Requests by rank, one at a time, as long as the first fits."""

    def __init__(self, name: str, rank: Rank, *, admission: Admission) -> None:
        super().__init__(name, admission=admission)
        self._rank = rank
        self._ranking = KineticTournament()
        self._ranked_pace = self._serving.pace

    def observe(
        self, size: int, prompt_tokens: int, generation_tokens: float, serving_s: float
    ) -> None:
        """Learn a serving time; rank all again once that would change their order."""
        super().observe(size, prompt_tokens, generation_tokens, serving_s)
        if not same_order(self._ranked_pace, self._serving.pace):
            self._ranked_pace = self._serving.pace
            self._ranking.put_all({each.id: self._line(each) for each in self._requests.values()})

    def check(self) -> None:
        """AssertionError where requests and ranking disagree."""
        super().check()
        self._ranking.check()
        assert len(self._ranking) == len(self)

    def _first(self, count: int, now_s: float) -> list[QueuedRequest]:
        highest = islice(self._ranking.ranked(now_s), count)
        return [self._requests[self._serial_of[key]] for key in highest]

    def _enter(self, request: QueuedRequest) -> None:
        super()._enter(request)
        self._ranking.put(request.id, self._line(request))

    def _remove(self, requests: Sequence[QueuedRequest]) -> None:
        super()._remove(requests)
        for request in requests:
            self._ranking.discard(request.id)

    def _line(self, request: QueuedRequest) -> RankLine:
        pace, prompt, generation = self._ranked_pace, request.prompt_tokens, request.median
        return self._rank(request, serving_seconds(pace, 1, prompt, generation))
