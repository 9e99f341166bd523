"""Adaptive batching directed by wasted memory access (Magnus, arXiv 2406.04785)."""

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Final

import numpy as np

from gateway.scheduling.magnus.batch import Batch
from gateway.scheduling.magnus.wma import row_reads
from gateway.scheduling.requests import QueuedRequest

SIZE: Final = 0  # columns of the batches that may be joined
PROMPT: Final = 1
GENERATION: Final = 2
READS: Final = 3


class Batcher:
    """Waiting requests in batches of similar length. An arrival costs a look at the open batches.

    `waste_limit` is Φ in token reads; None lets every request be a batch of its own.
    `memory_tokens` is Θ in KV tokens.
    """

    def __init__(self, waste_limit: float | None, memory_tokens: int) -> None:
        self._waste_limit = waste_limit
        self._memory_tokens = memory_tokens
        self._serials = count()
        self._joinable = OpenBatches(memory_tokens)
        self._home: dict[str, tuple[int, Batch]] = {}
        self.batches: dict[str, Batch] = {}

    def __len__(self) -> int:
        return len(self._home)

    def add(self, request: QueuedRequest) -> Batch:
        """The batch the request now waits in: the one of least WMA below Φ, else a new one."""
        if request.id in self._home:
            raise ValueError(f"request {request.id} waits already; ids must differ")
        batch = self._best(request) or self._open(insertable=True)
        self._place(request, batch)
        return batch

    def halve(self, requests: Sequence[QueuedRequest]) -> tuple[Batch, Batch]:
        """Queue a batch that ran out of memory again, as two halves that nobody joins.

        The members are two or more, of one model. ValueError if not, or if one waits already.
        """
        if len(requests) < 2 or any(request.id in self._home for request in requests):  # noqa: PLR2004
            raise ValueError("two or more requests, none of them waiting, can be halved")
        halves = requests[: len(requests) // 2], requests[len(requests) // 2 :]
        first, second = (self._closed(half) for half in halves)
        return first, second

    def resize(self, memory_tokens: int) -> None:
        """Let batches grow to this Θ from now on; those that are larger already stay so."""
        self._memory_tokens = memory_tokens
        self._joinable = OpenBatches(memory_tokens)
        for batch in self.batches.values():
            self._changed(batch)

    def take(self, request_ids: Iterable[str]) -> list[Batch]:
        """Let waiting requests go; the batches they left. KeyError if one is unknown."""
        touched: dict[int, Batch] = {}
        for request_id in request_ids:
            serial, batch = self._home.pop(request_id)
            batch.remove(serial)
            touched[batch.serial] = batch
        for batch in touched.values():
            self._changed(batch)
        return list(touched.values())

    def _best(self, request: QueuedRequest) -> Batch | None:
        if self._waste_limit is None:
            return None
        found = self._joinable.least_waste(request.prompt_tokens, request.median)
        return found[1] if found and found[0] < self._waste_limit else None

    def _open(self, *, insertable: bool) -> Batch:
        batch = Batch(next(self._serials), insertable=insertable)
        self.batches[batch.id] = batch
        return batch

    def _closed(self, requests: Sequence[QueuedRequest]) -> Batch:
        batch = self._open(insertable=False)
        for request in requests:
            self._place(request, batch)
        return batch

    def _place(self, request: QueuedRequest, batch: Batch) -> None:
        serial = next(self._serials)
        batch.add(serial, request)
        self._home[request.id] = serial, batch
        self._changed(batch)

    def _changed(self, batch: Batch) -> None:
        if not batch:
            del self.batches[batch.id]
        if self._waste_limit is not None:
            self._joinable.update(batch)

    def check(self) -> None:
        """AssertionError where batches, members and the table of open batches disagree."""
        assert sum(map(len, self.batches.values())) == len(self._home)
        for request_id, (serial, batch) in self._home.items():
            assert self.batches[batch.id] is batch
            assert batch.members[serial].id == request_id
        for batch in self.batches.values():
            assert batch.oldest_s == min(r.arrived_s for r in batch.members.values())
            assert batch.prompt_tokens == max(r.prompt_tokens for r in batch.members.values())
            assert batch.generation_tokens == max(r.median for r in batch.members.values())
            self._check_joinable(batch)

    def _check_joinable(self, batch: Batch) -> None:
        if self._waste_limit is None:
            return
        open_to_all = batch.insertable and not self._joinable.is_full(batch)
        assert (batch in self._joinable) == open_to_all


class OpenBatches:
    """Size, L(B), G(B) and least T of each insertable batch that is not full.

    A batch is full when one more member of its own lengths would break the memory rule: no
    request can ever join it, so it is left out. What stays differs in length by more than Φ, and
    so is few, however many requests wait.
    """

    def __init__(self, memory_tokens: int) -> None:
        self._memory_tokens = memory_tokens  # Θ
        self._batches: list[Batch] = []
        self._row: dict[int, int] = {}
        self._table = np.zeros((4, 16))  # (column, batch)

    def __len__(self) -> int:
        return len(self._batches)

    def __contains__(self, batch: Batch) -> bool:
        return batch.serial in self._row

    def is_full(self, batch: Batch) -> bool:
        """Whether no request at all can join."""
        tokens = batch.prompt_tokens + batch.generation_tokens
        return (len(batch) + 1) * tokens > self._memory_tokens

    def update(self, batch: Batch) -> None:
        """Take note of a batch that is new or has changed."""
        if not batch or not batch.insertable or self.is_full(batch):
            self._discard(batch)
            return
        row = self._row.get(batch.serial)
        if row is None:
            row = self._append(batch)
        self._table[SIZE, row] = len(batch)
        self._table[PROMPT, row] = batch.prompt_tokens
        self._table[GENERATION, row] = batch.generation_tokens
        self._table[READS, row] = batch.least_reads

    def least_waste(
        self, prompt_tokens: int, generation_tokens: float
    ) -> tuple[float, Batch] | None:
        """The least WMA(B + p) and its batch, among those where |B + p|·(L + G) ≤ Θ."""
        if not self._batches:
            return None
        size, prompt, generation, reads = self._table[:, : len(self._batches)]
        longest = np.maximum(prompt, prompt_tokens)
        most = np.maximum(generation, generation_tokens)
        least = np.minimum(reads, row_reads(prompt_tokens, generation_tokens))
        waste = most * (longest + (most - 1) / 2) - least
        waste[(size + 1) * (longest + most) > self._memory_tokens] = np.inf
        best = int(waste.argmin())
        return None if waste[best] == np.inf else (float(waste[best]), self._batches[best])

    def _append(self, batch: Batch) -> int:
        row = self._row[batch.serial] = len(self._batches)
        self._batches.append(batch)
        if row == self._table.shape[1]:
            self._table = np.concatenate([self._table, np.zeros_like(self._table)], axis=1)
        return row

    def _discard(self, batch: Batch) -> None:
        row = self._row.pop(batch.serial, None)
        if row is None:
            return
        last = self._batches.pop()
        if last is not batch:  # the last row fills the gap
            self._batches[row] = last
            self._row[last.serial] = row
            self._table[:, row] = self._table[:, len(self._batches)]
