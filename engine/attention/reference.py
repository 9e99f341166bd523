"""Paged attention in plain torch: the reference, and what a CPU runs.

Single tokens are attended page by page: pages are the batch, read where they lie, and the parts
of one sequence are put together by a running maximum and sum as in flash decoding. Longer chunks
go through torch's own attention, one sequence after another.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from engine.kv.store import KvStore
from engine.packing import Decode, Packed, Prefill


class PagedStep:
    """What the attention of every layer needs of one step; masks are made once for all layers."""

    def __init__(self, packed: Packed, store: KvStore) -> None:
        self.packed = packed
        self.store = store
        self._visible: dict[int | None, Tensor] = {}
        self._masks: dict[tuple[int, int | None], Tensor] = {}

    def visible(self, decode: Decode, page_tokens: int, window: int | None) -> Tensor:
        """Which keys each page's reader sees: (span, 1, 1, page_tokens) booleans."""
        if window not in self._visible:
            offsets = torch.arange(page_tokens, device=decode.first.device)
            keys = decode.first[:, None] + offsets  # (span, page_tokens)
            query = decode.positions[decode.owner][:, None]  # (span, 1)
            self._visible[window] = _sees(query, keys, window)[:, None, None]
        return self._visible[window]

    def mask(self, index: int, prefill: Prefill, window: int | None) -> Tensor:
        """Which keys each query of a chunk sees: (chunk, context) booleans."""
        if (index, window) not in self._masks:
            count = prefill.rows.stop - prefill.rows.start
            keys = torch.arange(prefill.start + count, device=prefill.pages.device)
            query = keys[prefill.start :, None]
            self._masks[index, window] = _sees(query, keys, window)
        return self._masks[index, window]


def _sees(query: Tensor, keys: Tensor, window: int | None) -> Tensor:
    seen = keys <= query
    return seen if window is None else seen & (keys > query - window)


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - transformers' signature; no mask is built
    *,
    paged: PagedStep,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention of a packed step: query (1, heads, tokens, dim) gives (1, tokens, heads, dim).

    Keys and values (1, kv_heads, tokens, dim) are kept in the pool first; a query sees its own
    sequence's, up to itself, the last `sliding_window` of them where that is given.
    """
    layer = module.layer_idx
    assert isinstance(layer, int)
    packed, store = paged.packed, paged.store
    store.write(
        layer, packed.pages, packed.offsets, key[0].transpose(0, 1), value[0].transpose(0, 1)
    )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = query.new_empty(query.shape[2], query.shape[1], value.shape[-1])  # (tokens, heads, dim)
    if packed.decode is not None:
        rows = query[0, :, : packed.decode.rows].transpose(0, 1)
        visible = paged.visible(packed.decode, store.keys[layer].shape[2], sliding_window)
        out[: packed.decode.rows] = _attend_pages(
            rows, store, layer, packed.decode, visible=visible, scale=scale
        )
    for index, prefill in enumerate(packed.prefills):
        whole = prefill.start == 0 and sliding_window is None
        mask = None if whole else paged.mask(index, prefill, sliding_window)
        rows = query[:, :, prefill.rows]
        out[prefill.rows] = _attend_chunk(rows, store, layer, prefill, mask=mask, scale=scale)
    return out[None], None


def _attend_pages(
    query: Tensor, store: KvStore, layer: int, decode: Decode, *, visible: Tensor, scale: float
) -> Tensor:
    """One query a sequence, (rows, heads, dim), over its pages: (rows, heads, dim)."""
    keys, values = _pages(store.keys[layer], decode), _pages(store.values[layer], decode)
    rows, heads, dim = query.shape
    grouped = query.reshape(rows, keys.shape[1], -1, dim)  # (rows, kv_heads, group, dim)
    scores = (grouped[decode.owner] @ keys.transpose(-1, -2)).float() * scale
    scores = scores.masked_fill(~visible, -torch.inf)  # (span, kv_heads, group, page_tokens)
    peak = _highest(scores.amax(-1), decode)  # (rows, kv_heads, group)
    weights = torch.exp(scores - peak[decode.owner][..., None])
    total = torch.zeros_like(peak).index_add_(0, decode.owner, weights.sum(-1))
    parts = (weights.to(values.dtype) @ values).float()  # (span, kv_heads, group, dim)
    summed = parts.new_zeros(rows, *parts.shape[1:]).index_add_(0, decode.owner, parts)
    return (summed / total[..., None]).reshape(rows, heads, -1).to(query.dtype)


def _pages(pool: Tensor, decode: Decode) -> Tensor:
    return pool[: decode.span] if decode.pages is None else pool[decode.pages]


def _highest(peaks: Tensor, decode: Decode) -> Tensor:
    """The highest score of each row from those of its pages (span, kv_heads, group)."""
    start = peaks.new_full((decode.rows, *peaks.shape[1:]), -torch.inf)
    return start.scatter_reduce_(0, decode.owner[:, None, None].expand_as(peaks), peaks, "amax")


def _attend_chunk(
    query: Tensor,
    store: KvStore,
    layer: int,
    prefill: Prefill,
    *,
    mask: Tensor | None,
    scale: float,
) -> Tensor:
    """A chunk's queries (1, heads, chunk, dim) over its sequence so far: (chunk, heads, dim)."""
    context = prefill.start + query.shape[2]
    keys = _row(store.keys[layer], prefill.pages, context)
    values = _row(store.values[layer], prefill.pages, context)
    out = scaled_dot_product_attention(
        query, keys, values, mask, is_causal=mask is None, scale=scale, enable_gqa=True
    )
    return out[0].transpose(0, 1)


def _row(pool: Tensor, pages: Tensor, context: int) -> Tensor:
    """Pages of one sequence, gathered in order: (1, kv_heads, context, dim)."""
    gathered = pool[pages].transpose(0, 1)  # (kv_heads, pages, page_tokens, dim)
    return gathered.reshape(1, gathered.shape[0], -1, gathered.shape[-1])[:, :, :context]
