"""Kernels of paged attention for GPUs, in Triton.

The queries of a program are the heads of one group times some tokens of one chunk, so that every
key is read once for all of them. Scores are kept in units of log 2: exp2 is what the hardware has.
Running maximum and sum as in FlashAttention-2 (arXiv 2307.08691), keys split over programs as in
Flash-Decoding (Dao et al. 2023). Only the GPU's path imports this file: it needs triton.
"""

from collections.abc import Callable
from typing import Any, Final

import triton
import triton.language as tl

INTERPRETED: Final = bool(triton.knobs.runtime.interpret)
# The interpreter holds bfloat16 as bare bits and multiplies those.
_WIDEN: Final = tl.constexpr(INTERPRETED)


def _kernel(*varying: str) -> Callable[[Callable[..., Any]], Any]:
    """A Triton function; none is compiled anew for another value of what is `varying`."""
    return triton.jit(do_not_specialize=varying)  # type: ignore[no-any-return, unused-ignore]


@_kernel("tokens")
def keep(
    key: tl.tensor,
    value: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    slots: tl.tensor,
    tokens: tl.tensor,
    key_token: tl.tensor,
    key_head: tl.tensor,
    value_token: tl.tensor,
    value_head: tl.tensor,
    pool_page: tl.tensor,
    pool_head: tl.tensor,
    pool_place: tl.tensor,
    pool_dim: tl.tensor,
    page_tokens: tl.constexpr,
    dim: tl.constexpr,
    dims: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Write a step's keys and values where their slots say; a negative slot: nowhere.

    Programs are (blocks of tokens, kv_heads); arguments such as `key_token` are strides.
    """
    token = tl.program_id(0) * block + tl.arange(0, block)
    head = tl.program_id(1)
    slot = tl.load(slots + token, mask=token < tokens, other=-1)
    axis = tl.arange(0, dims)
    kept = (slot >= 0)[:, None] & (axis < dim)[None, :]
    page = (slot // page_tokens).to(tl.int64) * pool_page
    at = page + (slot % page_tokens) * pool_place + head * pool_head
    at = at[:, None] + axis[None, :] * pool_dim  # (block, dims)
    token = token.to(tl.int64)[:, None]
    new = tl.load(key + token * key_token + head * key_head + axis[None, :], mask=kept)
    tl.store(keys + at, new, mask=kept)
    new = tl.load(value + token * value_token + head * value_head + axis[None, :], mask=kept)
    tl.store(values + at, new, mask=kept)


@_kernel()
def _product(left: tl.tensor, right: tl.tensor, precision: tl.constexpr) -> tl.tensor:
    if _WIDEN:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, input_precision=precision)


@_kernel()
def _sweep(
    summed: tl.tensor,
    total: tl.tensor,
    peak: tl.tensor,
    queries: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    pages: tl.tensor,
    begin: tl.tensor,
    end: tl.tensor,
    position: tl.tensor,
    window: tl.tensor,
    scale: tl.tensor,
    pool_page: tl.tensor,
    pool_place: tl.tensor,
    pool_dim: tl.tensor,
    masked: tl.constexpr,
    windowed: tl.constexpr,
    page_tokens: tl.constexpr,
    dim: tl.constexpr,
    dims: tl.constexpr,
    block: tl.constexpr,
    precision: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Attend keys `begin` … `end` - 1; unless `masked` all queries see them in whole blocks."""
    axis = tl.arange(0, dims)
    for first in range(begin, end, block):
        token = first + tl.arange(0, block)
        there = token < end
        wide = (axis < dim)[None, :]
        if masked:
            page = tl.load(pages + token // page_tokens, mask=there, other=0)
            wide = wide & there[:, None]
        else:
            page = tl.load(pages + token // page_tokens)
        at = page.to(tl.int64) * pool_page + (token % page_tokens) * pool_place
        at = at[:, None] + axis[None, :] * pool_dim  # (block, dims)
        if masked or dim != dims:
            key = tl.load(keys + at, mask=wide, other=0.0)
            value = tl.load(values + at, mask=wide, other=0.0)
        else:
            key = tl.load(keys + at)
            value = tl.load(values + at)
        scores = _product(queries, tl.trans(key), precision) * scale  # (queries, block)
        if masked:
            seen = there[None, :] & (token[None, :] <= position[:, None])
            if windowed:
                seen = seen & (token[None, :] > position[:, None] - window)
            scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        # A query that saw no key yet has no peak, and infinities must not be subtracted.
        level = tl.where(higher == float("-inf"), 0.0, higher)
        weights = tl.exp2(scores - level[:, None])
        fade = tl.exp2(peak - level)
        total = total * fade + tl.sum(weights, 1)
        summed = summed * fade[:, None] + _product(weights.to(value.dtype), value, precision)
        peak = higher
    return summed, total, peak


@_kernel()
def _share(
    low: tl.tensor, high: tl.tensor, split: tl.tensor, splits: tl.tensor, block: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """The keys among `low` … `high` - 1 that a split attends: whole blocks, but for the last."""
    blocks = (tl.maximum(high - low, 0) + block - 1) // block
    share = (blocks + splits - 1) // splits * block
    begin = low + split * share
    return begin, tl.minimum(begin + share, high)


@_kernel("splits", "window", "scale")
def attend(
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    out: tl.tensor,
    parts: tl.tensor,
    totals: tl.tensor,
    peaks: tl.tensor,
    pages: tl.tensor,
    chunks: tl.tensor,
    tiles: tl.tensor,
    splits: tl.tensor,
    window: tl.tensor,
    scale: tl.tensor,
    query_token: tl.tensor,
    query_head: tl.tensor,
    out_token: tl.tensor,
    pool_page: tl.tensor,
    pool_head: tl.tensor,
    pool_place: tl.tensor,
    pool_dim: tl.tensor,
    single: tl.constexpr,
    whole: tl.constexpr,
    windowed: tl.constexpr,
    group: tl.constexpr,
    page_tokens: tl.constexpr,
    dim: tl.constexpr,
    dims: tl.constexpr,
    most: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Attention of tiles, programs being (tiles, kv_heads, splits).

    A tile is up to `most` tokens of a chunk times the heads of a group, `rows` in all; where
    `single`, tile i is chunk i, its token in row i. Where `whole` there is one split and its
    result goes to `out`; else what each split has of each row goes to `parts`, `totals`, `peaks`.
    """
    head, split = tl.program_id(1), tl.program_id(2)
    if single:
        chunk, first = tl.program_id(0), 0
    else:
        chunk = tl.load(tiles + 2 * tl.program_id(0))
        first = tl.load(tiles + 2 * tl.program_id(0) + 1)
    pages += tl.load(chunks + 5 * chunk)
    start = tl.load(chunks + 5 * chunk + 2)
    length = tl.load(chunks + 5 * chunk + 3)
    hidden = tl.load(chunks + 5 * chunk + 4)

    row = tl.arange(0, rows)
    index = first + row // group
    there = (row // group < most) & (index < length)
    position = start + index
    if single:
        token = (chunk + row // group).to(tl.int64)
        kept = row // group < most  # a row without a token gets zeros
    else:
        token = (tl.load(chunks + 5 * chunk + 1) + index).to(tl.int64)
        kept = there
    ahead = head * group + row % group
    axis = tl.arange(0, dims)
    wide = (axis < dim)[None, :]
    queries = tl.load(
        query + (token * query_token + ahead * query_head)[:, None] + axis[None, :],
        mask=there[:, None] & wide,
        other=0.0,
    )  # (rows, dims)

    low = tl.maximum(hidden, start + first - window + 1)
    begin, end = _share(low, start + tl.minimum(first + most, length), split, splits, block)
    if windowed:
        middle = begin
    else:  # all queries see the blocks before the first one's own key
        clear = low + tl.maximum(start + first + 1 - low, 0) // block * block
        middle = tl.minimum(tl.maximum(clear, begin), end)

    keys += head * pool_head
    values += head * pool_head
    summed, total = tl.full((rows, dims), 0.0, tl.float32), tl.full((rows,), 0.0, tl.float32)
    peak = tl.full((rows,), float("-inf"), tl.float32)
    if not windowed:
        summed, total, peak = _sweep(
            summed, total, peak, queries, keys, values, pages, begin, middle, position, window,
            scale, pool_page, pool_place, pool_dim, False, False, page_tokens, dim, dims, block,
            precision,
        )  # fmt: skip
    summed, total, peak = _sweep(
        summed, total, peak, queries, keys, values, pages, middle, end, position, window,
        scale, pool_page, pool_place, pool_dim, True, windowed, page_tokens, dim, dims, block,
        precision,
    )  # fmt: skip

    if whole:
        summed = summed / tl.where(total > 0.0, total, 1.0)[:, None]
        at = (token * out_token + ahead * dim)[:, None] + axis[None, :]
        tl.store(out + at, summed.to(out.dtype.element_ty), mask=kept[:, None] & wide)
    else:
        heads = tl.num_programs(1) * group
        part = (token * heads + ahead) * splits + split
        tl.store(peaks + part, peak, mask=kept)
        tl.store(totals + part, total, mask=kept)
        filled = kept & (begin < end)
        tl.store(parts + part[:, None] * dim + axis[None, :], summed, mask=filled[:, None] & wide)


@_kernel("splits")
def combine(
    parts: tl.tensor,
    totals: tl.tensor,
    peaks: tl.tensor,
    out: tl.tensor,
    splits: tl.tensor,
    dim: tl.constexpr,
    dims: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Put the splits together, one (token, head) a program; zeros where no split saw a key."""
    line = tl.program_id(0).to(tl.int64)
    axis = tl.arange(0, dims)
    summed = tl.full((dims,), 0.0, tl.float32)
    total = 0.0
    peak = float("-inf")
    for first in range(0, splits, block):
        split = first + tl.arange(0, block)
        there = split < splits
        part = line * splits + split
        heights = tl.load(peaks + part, mask=there, other=float("-inf"))
        seeing = heights > float("-inf")
        higher = tl.maximum(peak, tl.max(heights, 0))
        level = tl.where(higher == float("-inf"), 0.0, higher)
        fade = tl.exp2(peak - level)
        weights = tl.exp2(heights - level)
        sums = tl.load(totals + part, mask=seeing, other=0.0)
        total = total * fade + tl.sum(weights * sums, 0)
        wide = seeing[:, None] & (axis < dim)[None, :]
        content = tl.load(parts + part[:, None] * dim + axis[None, :], mask=wide, other=0.0)
        summed = summed * fade + tl.sum(weights[:, None] * content, 0)
        peak = higher
    summed = summed / tl.where(total > 0.0, total, 1.0)
    tl.store(out + line * dim + axis, summed.to(out.dtype.element_ty), mask=axis < dim)
