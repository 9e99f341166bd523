"""Policies that order single requests by a rank, such as SJF and HRRN."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from gateway.scheduling.admission.interface import Admission
from gateway.scheduling.baselines.base import FcfsPolicy
from gateway.scheduling.baselines.kinetic_tournament import KineticTournament
from gateway.scheduling.dispatch import LinearRank, ratio_rank
from gateway.scheduling.requests import QueuedRequest
from gateway.scheduling.serving_time import same_order, serving_seconds

RankFunction: TypeAlias = Callable[[QueuedRequest, float], LinearRank]
"""The rank of a request over time, given its serving time S in seconds."""


def by_length(request: QueuedRequest, _serving_s: float) -> LinearRank:
    """Shortest predicted generation (median) first: SJF."""
    return LinearRank(-request.median, 0.0, 0.0)


def by_ratio(request: QueuedRequest, serving_s: float) -> LinearRank:
    """Highest response ratio next: HRRN."""
    return ratio_rank(request.arrived_s, serving_s)


class RankedPolicy(FcfsPolicy):
    """Requests by rank, highest first, one at a time, while the first fits."""

    def __init__(self, name: str, rank: RankFunction, *, admission: Admission) -> None:
        super().__init__(name, admission=admission)
        self._rank = rank
        self._ranking = KineticTournament()
        self._ranked_coefficients = self._serving.coefficients

    def observe(
        self, size: int, prompt_tokens: int, generation_tokens: float, serving_s: float
    ) -> None:
        """Learn the serving time of a batch; recompute all ranks once their order may change."""
        super().observe(size, prompt_tokens, generation_tokens, serving_s)
        if not same_order(self._ranked_coefficients, self._serving.coefficients):
            self._ranked_coefficients = self._serving.coefficients
            requests = self._requests.values()
            self._ranking.put_all({request.id: self._rank_of(request) for request in requests})

    def check(self) -> None:
        """AssertionError if requests and ranking disagree."""
        super().check()
        self._ranking.check()
        assert len(self._ranking) == len(self)

    def _ordered(self, now_s: float) -> Iterator[QueuedRequest]:
        return (self._requests[self._serial_of[key]] for key in self._ranking.ranked(now_s))

    def _enter(self, request: QueuedRequest) -> None:
        super()._enter(request)
        self._ranking.put(request.id, self._rank_of(request))

    def _replace(self, serial: int, request: QueuedRequest) -> None:
        super()._replace(serial, request)
        self._ranking.put(request.id, self._rank_of(request))

    def _remove(self, requests: Sequence[QueuedRequest]) -> None:
        super()._remove(requests)
        for request in requests:
            self._ranking.discard(request.id)

    def _rank_of(self, request: QueuedRequest) -> LinearRank:
        coefficients, prompt, generation = (
            self._ranked_coefficients,
            request.prompt_tokens,
            request.median,
        )
        return self._rank(request, serving_seconds(coefficients, 1, prompt, generation))
