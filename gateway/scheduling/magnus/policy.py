"""Magnus (arXiv 2406.04785): batches of least wasted memory access, highest response ratio next."""

from collections.abc import Sequence
from typing import ClassVar

from gateway.scheduling.admission.interface import Admission
from gateway.scheduling.baselines.base import FcfsPolicy
from gateway.scheduling.baselines.kinetic_tournament import KineticTournament
from gateway.scheduling.dispatch import Dispatch, LinearRank, ratio_rank
from gateway.scheduling.magnus.batch import MagnusBatch
from gateway.scheduling.magnus.batcher import Batcher
from gateway.scheduling.requests import QueuedRequest, WaitingBatch
from gateway.scheduling.serving_time import same_order, serving_seconds


class MagnusPolicy(FcfsPolicy):
    """For an engine in lock step: one whole batch at a time, the next when it has ended.

    `waste_limit` is Φ in token reads. The batcher bounds memory, by |B|·(L + G) ≤ Θ.
    """

    lockstep: ClassVar = True

    def __init__(self, waste_limit: float, *, admission: Admission) -> None:
        super().__init__("magnus", admission=admission)
        self._batcher = Batcher(waste_limit, admission.capacity.tokens)
        self._ranking = KineticTournament()
        self._ranked_coefficients = self._serving.coefficients

    def dispatch(self, now_s: float) -> Dispatch | None:
        """The whole batch of highest ratio; None while anything runs."""
        best = next(self._ranking.ranked(now_s), None)
        if best is None or not self.admission.empty:
            return None
        batch = self._batcher.batches[best]
        requests = batch.first(len(batch))
        for request in requests:
            self.admission.force(request)
        return self._started(requests, now_s)

    def halve(self, requests: Sequence[QueuedRequest]) -> None:
        """Queue a batch of two or more that ran out of memory again, as two closed halves.

        The batch had started in time, so its requests are exempt from the maximum queue time.
        """
        halves = self._batcher.halve(requests)
        for request in requests:
            self.admission.leave(request.id)
            super()._enter(request)
        for half in halves:
            self._rerank(half)

    def observe(
        self, size: int, prompt_tokens: int, generation_tokens: float, serving_s: float
    ) -> None:
        """Learn the serving time of a batch; recompute all ranks once their order may change."""
        super().observe(size, prompt_tokens, generation_tokens, serving_s)
        if not same_order(self._ranked_coefficients, self._serving.coefficients):
            self._ranked_coefficients = self._serving.coefficients
            batches = self._batcher.batches.values()
            self._ranking.put_all({batch.id: self._rank_of(batch) for batch in batches})

    def resize(self, pages: int, page_tokens: int, max_running: int | None = None) -> None:
        """Set the size of the KV pool; queued requests stay."""
        super().resize(pages, page_tokens, max_running)
        self._batcher.resize(self.admission.capacity.tokens)

    def waiting(self, now_s: float) -> Sequence[WaitingBatch]:
        """The queued batches, highest ratio first."""
        order = [self._batcher.batches[key] for key in self._ranking.ranked(now_s)]
        return [self._waiting_batch(batch.id, batch.first(len(batch)), now_s) for batch in order]

    def check(self) -> None:
        """AssertionError if batches and ranking disagree."""
        super().check()
        self._batcher.check()
        self._ranking.check()
        assert len(self._batcher) == len(self)
        assert len(self._ranking) == len(self._batcher.batches)

    def _enter(self, request: QueuedRequest) -> None:
        super()._enter(request)
        self._rerank(self._batcher.add(request))

    def _remove(self, requests: Sequence[QueuedRequest]) -> None:
        super()._remove(requests)
        for batch in self._batcher.take([request.id for request in requests]):
            self._rerank(batch)

    def _rerank(self, batch: MagnusBatch) -> None:
        if batch:
            self._ranking.put(batch.id, self._rank_of(batch))
        else:
            self._ranking.discard(batch.id)

    def _rank_of(self, batch: MagnusBatch) -> LinearRank:
        serving_s = serving_seconds(
            self._ranked_coefficients, len(batch), batch.prompt_tokens, batch.generation_tokens
        )
        return ratio_rank(batch.oldest_s, serving_s)
