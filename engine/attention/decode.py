"""Attention of single tokens: page by page, then the parts of each token put together."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.attention.partial import attend_part, unseen
from engine.attention.passes import Pass, arrange, count_up, list_entries
from engine.attention.tables import Integers, Tables, put
from engine.kv.store import KvStore


class Read(NamedTuple):
    """One pass on the device."""

    pages: Tensor | slice  # (items,)
    rows: Tensor  # (items · readers,) tokens whose queries are stacked
    mask: Tensor  # (items · kv_heads, readers · group, page_tokens)


class Decode(NamedTuple):
    """The passes of a step's single tokens, and where each of them finds its parts.

    A part is one page's output for one head of one token. Each head of each token has as many
    places for parts as the longest has.
    """

    reads: list[Read]
    places: Tensor  # (tokens, heads, places) the part at each place; any where there is none
    absent: Tensor  # (tokens, 1, places) 0 where there is a part, else -inf
    present: Tensor  # (parts,) which of all places have a part
    parts: Tensor  # (parts,) which part that is
    bags: Tensor  # (tokens · heads,) where each one's parts begin among these


class Heads(NamedTuple):
    """So many heads of keys, each read by a group of query heads."""

    kv: int
    group: int


class PagewiseDecode:
    """Attention of single tokens over the pages of a store."""

    def __init__(self, store: KvStore) -> None:
        self._pool = store.keys[0]

    def plan(self, tables: Tables, rows: int, heads: int, window: int | None) -> Decode:
        """How the first `rows` chunks, single tokens, are attended with so many query heads."""
        pool = self._pool
        kv_heads, page_tokens, device = pool.shape[1], pool.shape[2], pool.device
        entries = list_entries(tables, rows, page_tokens, window)
        reads, numbers = [], np.empty((len(entries.rows), heads), dtype=np.int64)
        before = 0
        for one, chosen in arrange(entries):
            reads.append(_read(one, Heads(kv_heads, heads // kv_heads), pool))
            numbers[chosen] = before + _parts(one, Heads(kv_heads, heads // kv_heads))
            before += one.size * one.readers * numbers.shape[1]
        counts = np.bincount(entries.rows, minlength=rows)
        # An absent part is the token's own first one: another's may not be a number.
        places = np.repeat(numbers[np.cumsum(counts) - counts, :, None], counts.max(), axis=2)
        places[entries.rows, :, count_up(counts)] = numbers
        there = np.arange(places.shape[2]) < counts[:, None]  # (tokens, places)
        present = np.flatnonzero(np.repeat(there, numbers.shape[1], axis=0))
        ends = np.cumsum(np.repeat(counts, numbers.shape[1]))
        return Decode(
            reads=reads,
            places=put(places, device),
            absent=put(np.where(there, 0, -np.inf).astype(np.float32)[:, None], device),
            present=put(present, device),
            parts=put(places.reshape(-1)[present], device),
            bags=put(ends - np.repeat(counts, numbers.shape[1]), device),
        )

    def attend(
        self, plan: Decode, query: Tensor, keys: Tensor, values: Tensor, scale: float
    ) -> Tensor:
        """Tokens (tokens, heads, dim) over (pages, kv_heads, page_tokens, dim): like the query."""
        results = [_attend_read(read, query, keys, values, scale) for read in plan.reads]
        out, weight = results[0]  # (parts, dim), (parts,)
        if len(results) > 1:
            out, weight = (torch.cat(column) for column in zip(*results, strict=True))
        shares = torch.softmax(weight[plan.places].add_(plan.absent), -1)
        combined: Tensor = torch.embedding_bag(
            out,
            plan.parts,
            plan.bags,
            mode=0,
            per_sample_weights=shares.view(-1)[plan.present].to(out.dtype),
        )[0]
        return combined.view(query.shape)


def _parts(one: Pass, heads: Heads) -> Integers:
    """The parts of each entry of a pass: (entries, heads)."""
    kv = (one.items * heads.kv)[:, None] + np.arange(heads.kv)  # (entries, kv_heads)
    reader = kv * one.readers + one.turns[:, None]
    parts: Integers = (reader * heads.group)[:, :, None] + np.arange(heads.group)
    return parts.reshape(len(one.items), -1)


def _read(one: Pass, heads: Heads, pool: Tensor) -> Read:
    rows = np.zeros((one.size, one.readers), dtype=np.int64)
    rows[one.items, one.turns] = one.entries.rows
    mask = put(_mask(one, pool.shape[2], unseen(pool.dtype)), pool.device).to(pool.dtype)
    shape = one.size, heads.kv, one.readers, heads.group, pool.shape[2]
    return Read(
        pages=one.pages if isinstance(one.pages, slice) else put(one.pages, pool.device),
        rows=put(rows.reshape(-1), pool.device),
        mask=mask[:, None, :, None].expand(shape).reshape(shape[0] * shape[1], -1, shape[4]),
    )


def _mask(one: Pass, page_tokens: int, hide: float) -> npt.NDArray[np.float32]:
    """What is added to the scores, (items, readers, page_tokens); most see their whole page."""
    mask = np.zeros((one.size, one.readers, page_tokens), dtype=np.float32)
    _, _, lowest, highest = one.entries
    edge = np.flatnonzero((lowest > 0) | (highest < page_tokens - 1))
    keys = np.arange(page_tokens)
    seen = (keys >= lowest[edge, None]) & (keys <= highest[edge, None])
    mask[one.items[edge], one.turns[edge]] = np.where(seen, 0, hide)
    return mask


def _attend_read(
    read: Read, query: Tensor, keys: Tensor, values: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """One pass: its parts (parts, dim), and their weights (parts,)."""
    tokens, heads, dim = query.shape
    items, queries, page_tokens = read.mask.shape  # items are (page, kv_head)s
    kv_heads = keys.shape[1]
    stacked = query.reshape(tokens, -1).index_select(0, read.rows)
    if queries * kv_heads != heads:
        stacked = stacked.view(items // kv_heads, -1, kv_heads, heads // kv_heads * dim)
        stacked = stacked.transpose(1, 2)
    keys, values = (_pages(pool, read.pages) for pool in (keys, values))
    out, weight = attend_part(
        stacked.reshape(items, queries, dim),
        keys.reshape(items, page_tokens, dim),
        values.reshape(items, page_tokens, dim),
        read.mask,
        scale,
    )
    return out.view(-1, dim), weight.view(-1)


def _pages(pool: Tensor, pages: Tensor | slice) -> Tensor:
    return pool[pages] if isinstance(pages, slice) else pool.index_select(0, pages)
