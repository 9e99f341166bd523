"""The policy that ranks waiting batches and sends the highest, as much of it as fits."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final, TypeAlias

from gateway.scheduling.admission import Capacity, Forecast
from gateway.scheduling.batch import Batch
from gateway.scheduling.batcher import Batcher
from gateway.scheduling.dispatch import Dispatch
from gateway.scheduling.response_ratio import Line, response_ratio
from gateway.scheduling.serving_time import Pace, ServingTime, same_order, serving_seconds
from gateway.scheduling.tournament import Tournament
from gateway.scheduling.waiting import Running, Waiting, WaitingBatch

Rank: TypeAlias = Callable[[Batch, float], Line]
"""A batch's rank over time, given its serving time S in seconds."""

Head: TypeAlias = Callable[[int], list[Waiting]]
"""The first so many requests of a queue."""

CHUNK: Final = 8  # requests whose admission is worked out at once; doubles while all fit


class RankedPolicy:
    """Batches by rank, admission by the future KV peak, and the overdue before all others.

    Where nothing of the best batch fits, the next `lookahead` - 1 are tried, so that a large
    request does not hold up the engine. What passes it is bounded: once it has waited
    `max_delay_s` it is overdue, and overdue requests go alone, in order of arrival, across
    batches, and nothing passes them. None (no bound) is for the baselines, with lookahead 1.
    """

    def __init__(
        self,
        name: str,
        *,
        rank: Rank,
        batcher: Batcher,
        capacity: Capacity,
        ids: Iterator[str],
        lookahead: int = 1,
        max_delay_s: float | None = None,
    ) -> None:
        self.name = name
        self._rank = rank
        self._batcher = batcher
        self._capacity = capacity
        self._ids = ids
        self._lookahead = lookahead
        self._max_delay_s = max_delay_s
        self._ranking = Tournament()
        self._serving = ServingTime()
        self._ranked_pace = self._serving.pace

    def __len__(self) -> int:
        return len(self._batcher)

    def arrive(self, request: Waiting) -> None:
        """Let a request wait. ValueError if one with this id waits already."""
        self._rerank(self._batcher.add(request))

    def withdraw(self, request_id: str) -> bool:
        """Forget a waiting request; False if it does not wait here."""
        if request_id not in self._batcher:
            return False
        self._leave([request_id])
        return True

    def dispatch(self, running: Sequence[Running], now_s: float) -> Dispatch | None:
        """The overdue or else the best batch, as much of it as fits; None if nothing does."""
        if not self:
            return None
        overdue = self._is_overdue(self._batcher.first(1)[0], now_s)
        forecast = Forecast(running, self._capacity)
        if overdue:
            requests = _fitting(lambda count: self._overdue(count, now_s), forecast)
        else:
            requests = self._best(forecast, now_s)
        if not requests and not running:  # too large even alone: the engine has the last word
            requests = self._batcher.first(1) if overdue else self._highest(now_s).first(1)
        return self._dispatched(requests, now_s, overdue=overdue) if requests else None

    def observe(
        self, size: int, prompt_tokens: int, generation_tokens: float, serving_s: float
    ) -> None:
        """Learn a batch's serving time; rank all anew once that would change their order."""
        self._serving.observe(size, prompt_tokens, generation_tokens, serving_s)
        if not same_order(self._ranked_pace, self._serving.pace):
            self._ranked_pace = self._serving.pace
            batches = self._batcher.batches.values()
            self._ranking.put_all({batch.id: self._line(batch) for batch in batches})

    def resize(self, pages: int, page_tokens: int) -> None:
        """Admit to a KV pool of this size from now on; what waits stays."""
        self._capacity = self._capacity.resized(pages, page_tokens)
        self._batcher.resize(self._capacity.tokens)

    def waiting(self) -> Sequence[WaitingBatch]:
        """The batches that wait, oldest batch first."""
        return [
            WaitingBatch(
                batch.id,
                batch.model,
                tuple(batch.first(len(batch))),
                batch.insertable,
                _serving_s(self._serving.pace, batch),
            )
            for batch in self._batcher.batches.values()
        ]

    def check(self) -> None:
        """AssertionError where batches and ranking disagree."""
        self._batcher.check()
        self._ranking.check()
        assert len(self._ranking) == len(self._batcher.batches)

    def _is_overdue(self, request: Waiting, now_s: float) -> bool:
        return self._max_delay_s is not None and now_s - request.arrived_s > self._max_delay_s

    def _overdue(self, count: int, now_s: float) -> list[Waiting]:
        """The first `count` overdue requests in order of arrival, as long as the model is one."""
        oldest = self._batcher.first(count)
        for place, request in enumerate(oldest):
            if request.model != oldest[0].model or not self._is_overdue(request, now_s):
                return oldest[:place]
        return oldest

    def _best(self, forecast: Forecast, now_s: float) -> list[Waiting]:
        """What fits of the best batch, or of the next best of which anything does."""
        ranked = self._ranking.ranked(now_s)
        best = self._batcher.batches[next(ranked)]
        requests = _fitting(best.first, forecast)
        if requests:
            return requests
        others = [self._batcher.batches[key] for key in islice(ranked, self._lookahead - 1)]
        fits = forecast.fits([batch.first(1)[0] for batch in others])
        found = next((batch for batch, fit in zip(others, fits, strict=True) if fit), None)
        return _fitting(found.first, forecast) if found else []

    def _highest(self, now_s: float) -> Batch:
        return self._batcher.batches[next(self._ranking.ranked(now_s))]

    def _dispatched(self, requests: Sequence[Waiting], now_s: float, *, overdue: bool) -> Dispatch:
        left = self._leave([request.id for request in requests])
        whole = len(left) == 1 and not left[0]
        waited_s = max(now_s - requests[0].arrived_s, 0.0)
        serving_s = self._serving.estimate(
            len(requests),
            max(request.prompt_tokens for request in requests),
            max(request.median for request in requests),
        )
        return Dispatch(
            batch=left[0].id if whole else next(self._ids),
            requests=tuple(requests),
            serving_s=serving_s,
            ratio=response_ratio(waited_s, serving_s),
            waited_s=waited_s,
            overdue=overdue,
        )

    def _leave(self, request_ids: Sequence[str]) -> list[Batch]:
        left = self._batcher.take(request_ids)
        for batch in left:
            self._rerank(batch)
        return left

    def _rerank(self, batch: Batch) -> None:
        if batch:
            self._ranking.put(batch.id, self._line(batch))
        else:
            self._ranking.discard(batch.id)

    def _line(self, batch: Batch) -> Line:
        return self._rank(batch, _serving_s(self._ranked_pace, batch))


def _serving_s(pace: Pace, batch: Batch) -> float:
    return serving_seconds(pace, len(batch), batch.prompt_tokens, batch.generation_tokens)


def _fitting(head: Head, forecast: Forecast) -> list[Waiting]:
    """The requests at the head of a queue that fit; they have then joined the forecast."""
    admitted, chunk = 0, CHUNK
    while True:
        requests = head(admitted + chunk)
        offered = len(requests) - admitted
        fit = forecast.admit(requests[admitted:])
        admitted += fit
        if fit < offered or offered < chunk:
            return requests[:admitted]
        chunk *= 2
