"""Magnus (arXiv 2406.04785): batches of least wasted memory access, highest response ratio next."""

from collections.abc import Sequence
from typing import ClassVar

from gateway.scheduling.admission.interface import Admission
from gateway.scheduling.baselines.base import PlainPolicy
from gateway.scheduling.baselines.kinetic_tournament import KineticTournament
from gateway.scheduling.dispatch import Dispatch, RankLine, ratio_line
from gateway.scheduling.magnus.batch import Batch
from gateway.scheduling.magnus.batcher import Batcher
from gateway.scheduling.requests import QueuedRequest, WaitingBatch
from gateway.scheduling.serving_time import same_order, serving_seconds


class MagnusPolicy(PlainPolicy):
    """For an engine in lock step: a whole batch at a time, the next when the one before has ended.

    `waste_limit` is Φ in token reads. Memory is the batcher's rule, |B|·(L + G) ≤ Θ.
    """

    lockstep: ClassVar = True

    def __init__(self, waste_limit: float, *, admission: Admission) -> None:
        super().__init__("magnus", admission=admission)
        self._batcher = Batcher(waste_limit, admission.capacity.tokens)
        self._ranking = KineticTournament()
        self._ranked_pace = self._serving.pace

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
        """A batch of two or more ran out of memory: it waits again, as two that nobody joins.

        It did start in time, so that none of it is given up for its maximum queue time.
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
        """Learn a batch's serving time; rank all again once that would change their order."""
        super().observe(size, prompt_tokens, generation_tokens, serving_s)
        if not same_order(self._ranked_pace, self._serving.pace):
            self._ranked_pace = self._serving.pace
            batches = self._batcher.batches.values()
            self._ranking.put_all({batch.id: self._line(batch) for batch in batches})

    def resize(self, pages: int, page_tokens: int) -> None:
        """Let batches fill a KV pool of this size from now on; what waits stays."""
        super().resize(pages, page_tokens)
        self._batcher.resize(self.admission.capacity.tokens)

    def waiting(self, now_s: float) -> Sequence[WaitingBatch]:
        """The batches that wait, highest ratio first."""
        order = [self._batcher.batches[key] for key in self._ranking.ranked(now_s)]
        return [self._shown(batch.id, batch.first(len(batch)), now_s) for batch in order]

    def check(self) -> None:
        """AssertionError where batches and ranking disagree."""
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

    def _rerank(self, batch: Batch) -> None:
        if batch:
            self._ranking.put(batch.id, self._line(batch))
        else:
            self._ranking.discard(batch.id)

    def _line(self, batch: Batch) -> RankLine:
        serving_s = serving_seconds(
            self._ranked_pace, len(batch), batch.prompt_tokens, batch.generation_tokens
        )
        return ratio_line(batch.oldest_s, serving_s)
