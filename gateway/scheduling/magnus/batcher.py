"""Adaptive batching by wasted memory access, WMA (Magnus, arXiv 2406.04785)."""

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Final

import numpy as np

from gateway.quantiles import Bools, Floats
from gateway.scheduling.admission.interface import Capacity
from gateway.scheduling.magnus.batch import MagnusBatch
from gateway.scheduling.magnus.lockstep import halves_of
from gateway.scheduling.magnus.wma import WasteLimit, row_reads
from gateway.scheduling.requests import QueuedRequest

ROOM: Final = 0  # rows of the table of open batches
PROMPT: Final = 1
GENERATION: Final = 2
READS: Final = 3


class Batcher:
    """Queued requests in batches of similar length. An arrival costs O(number of open batches).

    `limit` is Φ, `capacity` is Θ.
    """

    def __init__(self, limit: WasteLimit, capacity: Capacity) -> None:
        self._limit = limit
        self._serials = count()
        self.open_batches = OpenBatches(capacity)
        self._location: dict[str, tuple[int, MagnusBatch]] = {}
        self.batches: dict[str, MagnusBatch] = {}

    def __len__(self) -> int:
        return len(self._location)

    def add(self, request: QueuedRequest) -> MagnusBatch:
        """Add a request to the batch of least WMA, of those within Φ, else to a new one."""
        if request.id in self._location:
            raise ValueError(f"request {request.id} waits already; ids must differ")
        batch = self.open_batches.best(request, self._limit) or self._new_batch(insertable=True)
        self._insert(request, batch)
        return batch

    def halve(self, requests: Sequence[QueuedRequest]) -> list[MagnusBatch]:
        """Queue a batch that ran out of memory again, as halves that no request may join.

        ValueError if one of them is queued already.
        """
        if any(request.id in self._location for request in requests):
            raise ValueError("only requests that are not queued can be halved")
        return [self._closed_batch(half) for half in halves_of(requests)]

    def resize(self, capacity: Capacity) -> None:
        """Set Θ; batches that are larger already stay as they are."""
        self.open_batches = OpenBatches(capacity)
        for batch in self.batches.values():
            self._changed(batch)

    def closed_batch_of(self, request_id: str) -> MagnusBatch | None:
        """The closed batch that a request is in; None if it is in an open one or in none."""
        _, batch = self._location.get(request_id, (0, None))
        return None if batch is None or batch.insertable else batch

    def replace(self, request: QueuedRequest) -> None:
        """Put a request in the place of the one with the same id. KeyError if there is none."""
        serial, batch = self._location[request.id]
        batch.remove(serial)
        self._insert(request, batch)

    def take(self, request_ids: Iterable[str]) -> list[MagnusBatch]:
        """Remove requests, ignoring unknown ones; returns the batches they left."""
        touched: dict[int, MagnusBatch] = {}
        for request_id in request_ids:
            if request_id not in self._location:
                continue
            serial, batch = self._location.pop(request_id)
            batch.remove(serial)
            touched[batch.serial] = batch
        for batch in touched.values():
            self._changed(batch)
        return list(touched.values())

    def _new_batch(self, *, insertable: bool) -> MagnusBatch:
        batch = MagnusBatch(next(self._serials), insertable=insertable)
        self.batches[batch.id] = batch
        return batch

    def _closed_batch(self, requests: Sequence[QueuedRequest]) -> MagnusBatch:
        batch = self._new_batch(insertable=False)
        for request in requests:
            self._insert(request, batch)
        return batch

    def _insert(self, request: QueuedRequest, batch: MagnusBatch) -> None:
        serial = next(self._serials)
        batch.add(serial, request)
        self._location[request.id] = serial, batch
        self._changed(batch)

    def _changed(self, batch: MagnusBatch) -> None:
        if not batch:
            del self.batches[batch.id]
        self.open_batches.update(batch)

    def check(self) -> None:
        """AssertionError if batches, members and the table of open batches disagree."""
        assert sum(map(len, self.batches.values())) == len(self._location)
        for request_id, (serial, batch) in self._location.items():
            assert self.batches[batch.id] is batch
            assert batch.members[serial].id == request_id
        for batch in self.batches.values():
            assert batch.oldest_s == min(r.arrived_s for r in batch.members.values())
            assert batch.prompt_tokens == max(r.prompt_tokens for r in batch.members.values())
            assert batch.generation_tokens == max(r.p90 for r in batch.members.values())
            open_to_all = batch.insertable and not self.open_batches.is_full(batch)
            assert (batch in self.open_batches) == open_to_all


class OpenBatches:
    """A table of room, L(B), G(B) and minimum T of each batch that is open.

    The memory rule is |B|·(L(B) + G(B)) ≤ Θ in whole pages, since every row has its own. The room
    is what the rule leaves for each row once one more has joined. A batch is full when its own rows
    exceed that: no request can join it, so it is left out. The others differ in length by more than
    Φ allows, so they stay few, however many requests are queued.
    """

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._batches: list[MagnusBatch] = []
        self._row: dict[int, int] = {}
        self._table = np.zeros((4, 16))  # (property, batch)

    def __len__(self) -> int:
        return len(self._batches)

    def __contains__(self, batch: MagnusBatch) -> bool:
        return batch.serial in self._row

    def is_full(self, batch: MagnusBatch) -> bool:
        """Whether no request can join."""
        return batch.prompt_tokens + batch.generation_tokens > self._room(batch)

    def update(self, batch: MagnusBatch) -> None:
        """Add or update a batch; remove one that is no longer open."""
        if not batch or not batch.insertable or self.is_full(batch):
            self._discard(batch)
            return
        row = self._row.get(batch.serial)
        if row is None:
            row = self._append(batch)
        self._table[ROOM, row] = self._room(batch)
        self._table[PROMPT, row] = batch.prompt_tokens
        self._table[GENERATION, row] = batch.generation_tokens
        self._table[READS, row] = batch.min_reads

    def best(self, request: QueuedRequest, limit: WasteLimit) -> MagnusBatch | None:
        """The batch of least WMA(B + p), of those for which there is memory and that Φ allows."""
        if not self._batches:
            return None
        room, prompt, generation, reads = self._table[:, : len(self._batches)]
        longest = np.maximum(prompt, request.prompt_tokens)
        most = np.maximum(generation, request.p90)
        largest = row_reads(longest, most)
        waste = largest - np.minimum(reads, row_reads(request.prompt_tokens, request.p90))
        waste[(longest + most > room) | (waste > limit.of(largest))] = np.inf
        best = int(waste.argmin())
        return None if waste[best] == np.inf else self._batches[best]

    def fit(self, sizes: Floats, prompt_tokens: Floats, generation_tokens: Floats) -> Bools:
        """Whether there is memory for batches of these sizes, L(B) and G(B), (n,)."""
        row_pages = np.ceil((prompt_tokens + generation_tokens) / self._capacity.page_tokens)
        found: Bools = sizes * row_pages <= self._capacity.pages
        return found

    def lengths(self) -> tuple[list[MagnusBatch], Floats]:
        """The batches, and their sizes, L(B) and G(B): (3, n)."""
        lengths = self._table[:READS, : len(self._batches)].copy()
        lengths[ROOM] = [len(batch) for batch in self._batches]
        return list(self._batches), lengths

    def _room(self, batch: MagnusBatch) -> int:
        """The most tokens that each row may have once one more has joined."""
        return self._capacity.pages // (len(batch) + 1) * self._capacity.page_tokens

    def _append(self, batch: MagnusBatch) -> int:
        row = self._row[batch.serial] = len(self._batches)
        self._batches.append(batch)
        if row == self._table.shape[1]:
            self._table = np.concatenate([self._table, np.zeros_like(self._table)], axis=1)
        return row

    def _discard(self, batch: MagnusBatch) -> None:
        row = self._row.pop(batch.serial, None)
        if row is None:
            return
        last = self._batches.pop()
        if last is not batch:  # the last batch fills the gap
            self._batches[row] = last
            self._row[last.serial] = row
            self._table[:, row] = self._table[:, len(self._batches)]
