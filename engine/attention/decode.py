"""Attention of single tokens in torch: page by page, then the partial results are combined."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.attention.page_passes import PagePass, group_by_readers, list_entries, local_indices
from engine.attention.tables import Int64Array, PageTables, as_tensor
from engine.kv.store import KvStore


class DevicePass(NamedTuple):
    """A page pass as tensors on the device."""

    pages: Tensor | slice  # (items,)
    rows: Tensor  # (items · readers,) the tokens whose queries are stacked
    mask: Tensor  # (items · kv_heads, readers · group, page_tokens)


class DecodePlan(NamedTuple):
    """The page passes of a step's single tokens, and how their results are combined.

    A part is the output of one page for one head of one token. Each head of each token has as many
    slots for parts as the longest context needs.
    """

    passes: list[DevicePass]
    part_ids: Tensor  # (tokens, heads, slots) the part in each slot; arbitrary in empty slots
    absent_bias: Tensor  # (tokens, 1, slots) -inf in empty slots, else 0
    present_slots: Tensor  # (parts,) flat indices of the slots in use
    present_parts: Tensor  # (parts,) the part in each of these
    bag_offsets: Tensor  # (tokens · heads,) start of each one's parts among these


class HeadCounts(NamedTuple):
    """`kv` key heads, each read by `group` query heads."""

    kv: int
    group: int


class PagewiseDecode:
    """Attention of single tokens over the pages of a store."""

    def __init__(self, store: KvStore) -> None:
        self._pool = store.keys[0]

    def plan(self, tables: PageTables, rows: int, heads: int, window: int | None) -> DecodePlan:
        """Plan the first `rows` chunks, all single tokens, for `heads` query heads."""
        pool = self._pool
        kv_heads, page_tokens, device = pool.shape[1], pool.shape[2], pool.device
        entries = list_entries(tables, rows, page_tokens, window)
        passes, entry_parts = [], np.empty((len(entries.rows), heads), dtype=np.int64)
        offset = 0
        for page_pass, entry_indices in group_by_readers(entries):
            passes.append(_device_pass(page_pass, HeadCounts(kv_heads, heads // kv_heads), pool))
            entry_parts[entry_indices] = offset + _part_ids(
                page_pass, HeadCounts(kv_heads, heads // kv_heads)
            )
            offset += page_pass.size * page_pass.readers * entry_parts.shape[1]
        counts = np.bincount(entries.rows, minlength=rows)
        # Empty slots repeat the token's own first part: another token's may be NaN.
        part_ids = np.repeat(entry_parts[np.cumsum(counts) - counts, :, None], counts.max(), axis=2)
        part_ids[entries.rows, :, local_indices(counts)] = entry_parts
        has_part = np.arange(part_ids.shape[2]) < counts[:, None]  # (tokens, slots)
        present_slots = np.flatnonzero(np.repeat(has_part, entry_parts.shape[1], axis=0))
        ends = np.cumsum(np.repeat(counts, entry_parts.shape[1]))
        return DecodePlan(
            passes=passes,
            part_ids=as_tensor(part_ids, device),
            absent_bias=as_tensor(
                np.where(has_part, 0, -np.inf).astype(np.float32)[:, None], device
            ),
            present_slots=as_tensor(present_slots, device),
            present_parts=as_tensor(part_ids.reshape(-1)[present_slots], device),
            bag_offsets=as_tensor(ends - np.repeat(counts, entry_parts.shape[1]), device),
        )

    def attend(
        self, plan: DecodePlan, query: Tensor, keys: Tensor, values: Tensor, scale: float
    ) -> Tensor:
        """Attend (tokens, heads, dim) over (pages, kv_heads, page_tokens, dim); query shape."""
        results = [
            _attend_pass(device_pass, query, keys, values, scale) for device_pass in plan.passes
        ]
        out, weight = results[0]  # (parts, dim), (parts,)
        if len(results) > 1:
            out, weight = (torch.cat(column) for column in zip(*results, strict=True))
        part_weights = torch.softmax(weight[plan.part_ids].add_(plan.absent_bias), -1)
        combined: Tensor = torch.embedding_bag(
            out,
            plan.present_parts,
            plan.bag_offsets,
            mode=0,
            per_sample_weights=part_weights.view(-1)[plan.present_slots].to(out.dtype),
        )[0]
        return combined.view(query.shape)


def _part_ids(page_pass: PagePass, heads: HeadCounts) -> Int64Array:
    """The part ids of each entry of a pass: (entries, heads)."""
    kv = (page_pass.items * heads.kv)[:, None] + np.arange(heads.kv)  # (entries, kv_heads)
    reader = kv * page_pass.readers + page_pass.reader_slots[:, None]
    part_ids: Int64Array = (reader * heads.group)[:, :, None] + np.arange(heads.group)
    return part_ids.reshape(len(page_pass.items), -1)


def _device_pass(page_pass: PagePass, heads: HeadCounts, pool: Tensor) -> DevicePass:
    rows = np.zeros((page_pass.size, page_pass.readers), dtype=np.int64)
    rows[page_pass.items, page_pass.reader_slots] = page_pass.entries.rows
    mask = as_tensor(_mask(page_pass, pool.shape[2], masked_score(pool.dtype)), pool.device).to(
        pool.dtype
    )
    shape = page_pass.size, heads.kv, page_pass.readers, heads.group, pool.shape[2]
    return DevicePass(
        pages=page_pass.pages
        if isinstance(page_pass.pages, slice)
        else as_tensor(page_pass.pages, pool.device),
        rows=as_tensor(rows.reshape(-1), pool.device),
        mask=mask[:, None, :, None].expand(shape).reshape(shape[0] * shape[1], -1, shape[4]),
    )


def _mask(page_pass: PagePass, page_tokens: int, masked: float) -> npt.NDArray[np.float32]:
    """Added to the scores, (items, readers, page_tokens); 0 where the whole page is visible."""
    mask = np.zeros((page_pass.size, page_pass.readers, page_tokens), dtype=np.float32)
    _, _, lowest, highest = page_pass.entries
    partly_visible = np.flatnonzero((lowest > 0) | (highest < page_tokens - 1))
    keys = np.arange(page_tokens)
    visible = (keys >= lowest[partly_visible, None]) & (keys <= highest[partly_visible, None])
    mask[page_pass.items[partly_visible], page_pass.reader_slots[partly_visible]] = np.where(
        visible, 0, masked
    )
    return mask


def _attend_pass(
    device_pass: DevicePass, query: Tensor, keys: Tensor, values: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend one pass: its parts (parts, dim) and the logarithms of their weights (parts,)."""
    tokens, heads, dim = query.shape
    items, queries, page_tokens = device_pass.mask.shape  # an item is a (page, kv_head) pair
    kv_heads = keys.shape[1]
    stacked = query.reshape(tokens, -1).index_select(0, device_pass.rows)
    if queries * kv_heads != heads:
        stacked = stacked.view(items // kv_heads, -1, kv_heads, heads // kv_heads * dim)
        stacked = stacked.transpose(1, 2)
    keys, values = (_gather_pages(pool, device_pass.pages) for pool in (keys, values))
    out, weight = attend_part(
        stacked.reshape(items, queries, dim),
        keys.reshape(items, page_tokens, dim),
        values.reshape(items, page_tokens, dim),
        device_pass.mask,
        scale,
    )
    return out.view(-1, dim), weight.view(-1)


def _gather_pages(pool: Tensor, pages: Tensor | slice) -> Tensor:
    return pool[pages] if isinstance(pages, slice) else pool.index_select(0, pages)


def masked_score(dtype: torch.dtype) -> float:
    """Added to the score of an invisible key; finite, so that no sum is NaN."""
    return max(-1e30, torch.finfo(dtype).min / 2)


def attend_part(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend each item's queries over its keys: outputs and the logarithm of their total weight.

    Query (items, queries, dim), keys and values (items, tokens, dim) and mask (items, queries,
    tokens) give (items, queries, dim) and (items, queries) in float32.
    """
    scores = torch.baddbmm(mask, query, keys.transpose(1, 2), alpha=scale).float()
    shares = torch.softmax(scores, -1)
    # The highest share is exp(highest score) / total weight: two cheap maxima replace a slow sum.
    weight = scores.amax(-1) - shares.amax(-1).log()
    return torch.bmm(shares.to(values.dtype), values), weight
