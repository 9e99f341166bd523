"""The batches an arriving request may still join, laid out for one vectorised look."""

from typing import Final

import numpy as np

from gateway.scheduling.batch import Batch
from gateway.scheduling.waste import row_reads

SIZE: Final = 0
PROMPT: Final = 1
GENERATION: Final = 2
READS: Final = 3


class Joinable:
    """Size, L(B), G(B) and least T of each insertable batch of one model that is not full.

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
