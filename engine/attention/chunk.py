"""Attention of a chunk of several tokens over its sequence up to its last token."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from engine.attention.tables import PageTables, as_tensor
from engine.kv.store import KvStore


class ChunkPlan(NamedTuple):
    """How one chunk of a step is attended.

    Without `pages` the context is the chunk itself; without `mask` attention is causal.
    """

    rows: slice  # the chunk's rows in the step
    context: int  # tokens of the sequence up to the end of the chunk
    pages: Tensor | None  # (kv_heads · pages,) (page, head) indices of the store, head by head
    mask: Tensor | None  # (chunk, context) added to the scores


def plan_chunk(tables: PageTables, index: int, store: KvStore, window: int | None) -> ChunkPlan:
    """The plan of chunk `index` of a step."""
    start, length, padding, count = (
        int(column[index])
        for column in (tables.starts, tables.lengths, tables.padding, tables.counts)
    )
    first_row, offset = int(tables.lengths[:index].sum()), int(tables.offsets[index])
    context, heads = start + length, store.shape.kv_heads
    table = tables.pages[offset : offset + count] * heads + np.arange(heads)[:, None]
    unwindowed = window is None or context <= window
    device = store.content.device
    causal = unwindowed and not start and not padding
    mask = None if causal else chunk_mask(start, length, padding, window)
    return ChunkPlan(
        rows=slice(first_row, first_row + length),
        context=context,
        pages=as_tensor(table.reshape(-1), device) if start else None,
        mask=None if mask is None else mask.to(device, store.content.dtype),
    )


def chunk_mask(start: int, length: int, padding: int, window: int | None) -> Tensor:
    """What is added to the scores of a chunk over its context: (length, start + length)."""
    keys = torch.arange(start + length)
    query = keys[start:, None]
    visible = (keys <= query) & (keys >= query.clamp(max=padding))
    if window is not None:
        visible &= keys > query - window
    return torch.zeros(visible.shape).masked_fill_(~visible, -torch.inf)


def attend_chunk(
    chunk: ChunkPlan,
    query: Tensor,
    own_kv: tuple[Tensor, Tensor],
    kv_pages: tuple[Tensor, Tensor],
    scale: float,
) -> Tensor:
    """Attend a chunk's queries (chunk, heads, dim) over its context; same shape as the queries.

    `own_kv`: the chunk's keys and values, (chunk, kv_heads, dim) each. `kv_pages`: all pages,
    (pages, kv_heads, page_tokens, dim) each.
    """
    if chunk.pages is None:
        keys, values = (tensor.transpose(0, 1) for tensor in own_kv)
    else:
        keys, values = (_gather(pool, chunk.pages)[:, : chunk.context] for pool in kv_pages)
    return attend_context(query, keys, values, chunk.mask, scale)


def attend_context(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float
) -> Tensor:
    """Attend queries (chunk, heads, dim) over a context (kv_heads, tokens, dim); query shape.

    `mask`, (chunk, tokens), is added to the scores; without one, attention is causal.
    """
    length, heads, dim = query.shape
    kv_heads, context, _ = keys.shape
    grouped = query.reshape(length, kv_heads, heads // kv_heads, dim).permute(1, 2, 0, 3)
    shape = (kv_heads, heads // kv_heads, context, dim)
    out = scaled_dot_product_attention(
        grouped,
        keys[:, None].expand(shape),
        values[:, None].expand(shape),
        mask,
        is_causal=mask is None,
        scale=scale,
    )
    return out.permute(2, 0, 1, 3).reshape(length, heads, dim)


def _gather(pool: Tensor, pages: Tensor) -> Tensor:
    """The pages of one sequence in order: (kv_heads, tokens, dim)."""
    _, kv_heads, page_tokens, dim = pool.shape
    rows = pool.view(-1, page_tokens * dim).index_select(0, pages)
    return rows.view(kv_heads, -1, dim)
