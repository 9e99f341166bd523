"""Paged attention in plain torch, for any device: the reference."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from engine.attention.chunk import ChunkPlan, attend_chunk, plan_chunk
from engine.attention.decode import PagewiseDecode
from engine.attention.interface import Context
from engine.attention.tables import PageTables, as_tensor, ranges, tabulate
from engine.kv.store import KvStore


class DecodeAttention(Protocol):
    """Attention of single tokens, each over its own pages."""

    def plan(self, tables: PageTables, rows: int, heads: int, window: int | None) -> Any:
        """Plan the first `rows` chunks, all single tokens, for `heads` query heads."""

    def attend(
        self, plan: Any, query: Tensor, keys: Tensor, values: Tensor, scale: float
    ) -> Tensor:
        """Attend (tokens, heads, dim) over (pages, kv_heads, page_tokens, dim); query shape."""


class ReferencePlan:
    """Where a step's keys and values are stored, and how its tokens are attended.

    The latter depends on a layer's window and heads; it is computed at the first such layer.
    """

    def __init__(self, tables: PageTables, store: KvStore, decode: DecodeAttention) -> None:
        self._tables = tables
        self._store = store
        self._decode = decode
        self.singles = int(np.argmin(np.append(tables.lengths, 0) == 1))
        self.rows = as_tensor(_rows(tables, store), store.content.device)
        self._decodes: dict[tuple[int, int | None], Any] = {}
        self._chunks: dict[int | None, list[ChunkPlan]] = {}

    def decode(self, heads: int, window: int | None) -> Any:
        """The plan of the single tokens; there must be some."""
        if (heads, window) not in self._decodes:
            self._decodes[heads, window] = self._decode.plan(
                self._tables, self.singles, heads, window
            )
        return self._decodes[heads, window]

    def chunks(self, window: int | None) -> list[ChunkPlan]:
        """The plans of the longer chunks."""
        if window not in self._chunks:
            self._chunks[window] = [
                plan_chunk(self._tables, index, self._store, window)
                for index in range(self.singles, len(self._tables.lengths))
            ]
        return self._chunks[window]


class ReferenceAttention:
    """Attention over the pages of a store, on any device that torch supports.

    `decode` replaces torch's attention of single tokens by a faster implementation.
    """

    def __init__(self, store: KvStore, decode: DecodeAttention | None = None) -> None:
        self._store = store
        self._decode = decode or PagewiseDecode(store)

    def plan(self, contexts: Sequence[Context]) -> ReferencePlan:
        """Compute once per step what all its layers need."""
        return ReferencePlan(tabulate(contexts, self._store.page_tokens), self._store, self._decode)

    def attend(
        self,
        plan: ReferencePlan,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> Tensor:
        """Store a step's keys and values, then attend: (tokens, heads, dim) keeps its shape."""
        store, singles = self._store, plan.singles
        store.write(layer, plan.rows, key, value)
        keys, values = store.keys[layer], store.values[layer]
        chunks = plan.chunks(window)
        outputs = []
        if singles:
            decode = plan.decode(query.shape[1], window)
            outputs.append(self._decode.attend(decode, query[:singles], keys, values, scale))
        for chunk in chunks:
            own_kv = key[chunk.rows], value[chunk.rows]
            outputs.append(attend_chunk(chunk, query[chunk.rows], own_kv, (keys, values), scale))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def _rows(tables: PageTables, store: KvStore) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The store's row for each head of each token: (tokens · kv_heads,)."""
    heads, size = store.shape.kv_heads, store.page_tokens
    index = ranges(tables.starts, tables.lengths)
    page = tables.pages[np.repeat(tables.offsets, tables.lengths) + index // size]
    rows: np.ndarray[tuple[int, int], np.dtype[np.int64]] = (
        (page * heads)[:, None] + np.arange(heads)
    ) * size + (index % size)[:, None]
    return rows.reshape(-1)
