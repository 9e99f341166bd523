"""Magnus (arXiv 2406.04785): batches of least wasted memory access, one after the other."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from gateway.scheduling.admission.interface import Admission
from gateway.scheduling.baselines.kinetic_tournament import KineticTournament
from gateway.scheduling.dispatch import LinearRank, ratio_rank
from gateway.scheduling.magnus.batch import MagnusBatch
from gateway.scheduling.magnus.batcher import Batcher
from gateway.scheduling.magnus.lockstep import WholeBatchPolicy
from gateway.scheduling.magnus.merging import merged
from gateway.scheduling.magnus.wma import WasteLimit
from gateway.scheduling.requests import QueuedRequest, WaitingBatch
from gateway.scheduling.serving_time import same_order, serving_seconds

BatchRank: TypeAlias = Callable[[MagnusBatch, float], LinearRank]
"""The rank of a batch over time, given its serving time S in seconds."""


def highest_ratio(batch: MagnusBatch, serving_s: float) -> LinearRank:
    """Highest response ratio next (HRRN): Magnus itself."""
    return ratio_rank(batch.oldest_s, serving_s)


def oldest_first(batch: MagnusBatch, _serving_s: float) -> LinearRank:
    """The batch of the oldest request next: ABP, Magnus's ablation without HRRN."""
    return LinearRank(-batch.oldest_s, 0.0, 0.0)


class MagnusPolicy(WholeBatchPolicy):
    """Batches whose size is an outcome of similarity and memory; `rank` decides which is next.

    The batcher bounds their waste by Φ and their memory by Θ. With `merges`, the next batch takes
    waiting ones along where that shortens all waits in sum; the paper's does not.

    A revised prediction may change the batch of its request and of any that came later. They are
    batched again, in order of arrival, when the next batch is due: once, however many revisions
    there were. Members of closed batches stay there.
    """

    def __init__(
        self,
        name: str,
        rank: BatchRank,
        limit: WasteLimit,
        *,
        admission: Admission,
        merges: bool = False,
    ) -> None:
        super().__init__(name, admission=admission)
        self._rank = rank
        self._merges = merges
        self._batcher = Batcher(limit, admission.capacity)
        self._ranking = KineticTournament()
        self._ranked_coefficients = self._serving.coefficients
        self._first_revised: int | None = None  # serial; from it on, batches are outdated

    def halve(self, requests: Sequence[QueuedRequest]) -> None:
        """Queue what is left of a batch that ran out of memory again, as two closed halves.

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
        self._batcher.resize(self.admission.capacity)

    def waiting(self, now_s: float) -> Iterator[WaitingBatch]:
        """The queued batches, highest rank first."""
        self._batch_again()
        for key in self._ranking.ranked(now_s):
            batch = self._batcher.batches[key]
            yield self._waiting_batch(batch.id, batch.first(len(batch)), now_s)

    @property
    def batches(self) -> int:
        """Number of queued batches."""
        self._batch_again()
        return len(self._batcher.batches)

    def check(self) -> None:
        """AssertionError if batches and ranking disagree."""
        super().check()
        self._batch_again()
        self._batcher.check()
        self._ranking.check()
        assert len(self._batcher) == len(self)
        assert len(self._ranking) == len(self._batcher.batches)

    def _next_batch(self, now_s: float) -> list[QueuedRequest]:
        """The batch of the highest rank, with those merged into it."""
        self._batch_again()
        best = self._batcher.batches[next(self._ranking.ranked(now_s))]
        if not self._merges or not best.insertable:
            return best.first(len(best))
        coefficients = self._serving.coefficients
        together = merged(best, self._batcher.open_batches, len(self), coefficients)
        return [request for batch in together for request in batch.first(len(batch))]

    def _enter(self, request: QueuedRequest) -> None:
        super()._enter(request)
        if self._first_revised is None:
            self._rerank(self._batcher.add(request))

    def _replace(self, serial: int, request: QueuedRequest) -> None:
        super()._replace(serial, request)
        closed = self._batcher.closed_batch_of(request.id)
        if closed is not None:
            self._batcher.replace(request)
            self._rerank(closed)
        elif self._first_revised is None or serial < self._first_revised:
            self._first_revised = serial

    def _batch_again(self) -> None:
        """Batch the requests from the first revised one on, in order of arrival."""
        first, self._first_revised = self._first_revised, None
        if first is None:
            return
        requests = [
            request
            for serial, request in self._requests.items()
            if serial >= first and self._batcher.closed_batch_of(request.id) is None
        ]
        for batch in self._batcher.take([request.id for request in requests]):
            self._rerank(batch)
        for request in requests:
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
        return self._rank(batch, serving_s)
