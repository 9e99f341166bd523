"""Paged attention in plain torch: the reference, and what a CPU runs."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.attention.chunk import Chunk, attend_chunk, plan_chunk
from engine.attention.decode import Decode, Heads, attend_decode, plan_decode
from engine.attention.interface import Context
from engine.attention.tables import Tables, put, spread, tabulate
from engine.kv.store import KvStore


class StepPlan:
    """Where a step's keys and values go, and how its tokens are attended.

    The latter depends on a layer's window and heads: it is made for the first layer of a kind.
    """

    def __init__(self, tables: Tables, store: KvStore) -> None:
        self._tables = tables
        self._store = store
        self._device = store.content.device
        self.singles = int(np.argmin(np.append(tables.lengths, 0) == 1))
        self.rows = put(_rows(tables, store), self._device)
        self._decodes: dict[tuple[int, int | None], Decode] = {}
        self._chunks: dict[int | None, list[Chunk]] = {}

    def decode(self, heads: int, window: int | None) -> Decode:
        """How single tokens are attended, there being some."""
        if (heads, window) not in self._decodes:
            kv = self._store.shape.kv_heads
            self._decodes[heads, window] = plan_decode(
                self._tables, self.singles, Heads(kv, heads // kv), window, self._store.keys[0]
            )
        return self._decodes[heads, window]

    def chunks(self, window: int | None) -> list[Chunk]:
        """How longer chunks are attended."""
        if window not in self._chunks:
            self._chunks[window] = [
                plan_chunk(self._tables, index, self._store, window)
                for index in range(self.singles, len(self._tables.lengths))
            ]
        return self._chunks[window]


class ReferenceAttention:
    """Attention over the pages of a store, on any device that torch knows."""

    def __init__(self, store: KvStore) -> None:
        self._store = store

    def plan(self, contexts: Sequence[Context]) -> StepPlan:
        """What every layer of a step needs."""
        return StepPlan(tabulate(contexts, self._store.page_tokens), self._store)

    def attend(
        self,
        plan: StepPlan,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> Tensor:
        """Keep a step's keys and values, then attend: (tokens, heads, dim) gives the same shape."""
        store, singles = self._store, plan.singles
        store.write(layer, plan.rows, key, value)
        keys, values = store.keys[layer], store.values[layer]
        chunks = plan.chunks(window)
        parts = []
        if singles:
            decode = plan.decode(query.shape[1], window)
            parts.append(attend_decode(decode, query[:singles], keys, values, scale))
        for chunk in chunks:
            fresh = key[chunk.rows], value[chunk.rows]
            parts.append(attend_chunk(chunk, query[chunk.rows], fresh, (keys, values), scale))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _rows(tables: Tables, store: KvStore) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The store's row of every token's heads: (tokens · kv_heads,)."""
    heads, size = store.shape.kv_heads, store.page_tokens
    index = spread(tables.starts, tables.lengths)
    page = tables.pages[np.repeat(tables.offsets, tables.lengths) + index // size]
    rows: np.ndarray[tuple[int, int], np.dtype[np.int64]] = (
        (page * heads)[:, None] + np.arange(heads)
    ) * size + (index % size)[:, None]
    return rows.reshape(-1)
