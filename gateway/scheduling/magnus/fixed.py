"""Batches of a fixed size for an engine in lock step: the rungs below adaptive batching."""

from collections.abc import Iterator, Sequence
from math import ceil
from typing import Final

import numpy as np

from gateway.scheduling.admission.interface import Admission
from gateway.scheduling.magnus.lockstep import WholeBatchPolicy, halves_of
from gateway.scheduling.magnus.wma import row_reads
from gateway.scheduling.requests import QueuedRequest, WaitingBatch

MAX_COMPARED: Final = 1_024  # oldest requests among which similar ones are sought


class FixedPolicy(WholeBatchPolicy):
    """The `size` oldest requests at a time: VS, vanilla scheduling (Magnus, arXiv 2406.04785).

    The paper's 7 fit the memory at the longest possible prompts and answers. It ignores
    predictions. A batch is smaller than `size` only if fewer requests are queued, or if it is half
    of a batch that ran out of memory. Halves start in order of arrival, like all others.
    """

    def __init__(self, name: str, size: int, *, admission: Admission) -> None:
        super().__init__(name, admission=admission)
        self._size = size
        self._half_of: dict[str, list[QueuedRequest]] = {}  # the half that a request belongs to

    @property
    def _considered(self) -> int:
        """How many of the oldest requests may be in the next batch."""
        return self._size

    def halve(self, requests: Sequence[QueuedRequest]) -> None:
        """Queue what is left of a batch that ran out of memory again, as two closed halves.

        The batch had started in time, so its requests are exempt from the maximum queue time.
        """
        for half in halves_of(requests):
            members = list(half)
            for request in members:
                self.admission.leave(request.id)
                self._enter(request)
                self._half_of[request.id] = members

    def waiting(self, now_s: float) -> Iterator[WaitingBatch]:
        """The batches in the order in which they would start if nothing more arrived."""
        batches = [*self._halves, *self._batches(self._in_no_half(len(self), now_s))]
        batches.sort(key=self._age)
        for number, batch in enumerate(batches, 1):
            yield self._waiting_batch(f"{self.name} {number}", batch, now_s)

    @property
    def batches(self) -> int:
        """Number of queued batches."""
        return len(self._halves) + ceil((len(self) - len(self._half_of)) / self._size)

    @property
    def _halves(self) -> list[list[QueuedRequest]]:
        return [*{id(half): half for half in self._half_of.values()}.values()]

    def check(self) -> None:
        """AssertionError if requests, ids and halves disagree."""
        super().check()
        for request_id, half in self._half_of.items():
            assert request_id in self._serial_of
            assert [request.id for request in half].count(request_id) == 1

    def _next_batch(self, now_s: float) -> list[QueuedRequest]:
        """The batch of the oldest request."""
        [oldest] = self._first(1, now_s)
        half = self._half_of.get(oldest.id)
        return (
            list(half) if half else next(self._batches(self._in_no_half(self._considered, now_s)))
        )

    def _batches(self, requests: Sequence[QueuedRequest]) -> Iterator[list[QueuedRequest]]:
        """These requests, which are in order of arrival, in batches."""
        for first in range(0, len(requests), self._size):
            yield list(requests[first : first + self._size])

    def _in_no_half(self, count: int, now_s: float) -> list[QueuedRequest]:
        """The `count` oldest requests that belong to no half, in order."""
        oldest = self._first(count + len(self._half_of), now_s)
        return [request for request in oldest if request.id not in self._half_of][:count]

    def _age(self, batch: Sequence[QueuedRequest]) -> tuple[float, int]:
        return min((request.arrived_s, self._serial_of[request.id]) for request in batch)

    def _replace(self, serial: int, request: QueuedRequest) -> None:
        half = self._half_of.get(request.id)
        if half is not None:
            half[half.index(self._requests[serial])] = request
        super()._replace(serial, request)

    def _remove(self, requests: Sequence[QueuedRequest]) -> None:
        super()._remove(requests)
        for request in requests:
            half = self._half_of.pop(request.id, None)
            if half is not None:
                half.remove(request)


class SimilarPolicy(FixedPolicy):
    """The oldest request and the `size - 1` most similar to it: GLP (Magnus).

    Magnus's first ablation adds predicted lengths to `FixedPolicy` and keeps its batch size.
    Similar are those that waste least memory access in one batch with the oldest, among the
    `MAX_COMPARED` oldest; of equals the oldest are taken. The oldest request is always in the next
    batch.
    """

    @property
    def _considered(self) -> int:
        return MAX_COMPARED

    def _batches(self, requests: Sequence[QueuedRequest]) -> Iterator[list[QueuedRequest]]:
        prompt = np.array([request.prompt_tokens for request in requests], np.float64)
        generation = np.array([request.median for request in requests], np.float64)
        reads = row_reads(prompt, generation)
        left = np.arange(len(requests))
        while len(left):
            oldest, others = left[0], left[1:MAX_COMPARED]
            longest = np.maximum(prompt[others], prompt[oldest])
            most = np.maximum(generation[others], generation[oldest])
            waste = row_reads(longest, most) - np.minimum(reads[others], reads[oldest])
            similar = others[np.argsort(waste, kind="stable")[: self._size - 1]]
            batch = np.sort(np.append(similar, oldest))
            yield [requests[index] for index in batch]
            left = left[~np.isin(left, batch, assume_unique=True)]
