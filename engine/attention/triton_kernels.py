"""Triton kernels of paged attention for GPUs.

The queries of a program are the heads of one group times some tokens of one chunk, so that each key
is read once for all of them. Scores are in units of log 2, because the hardware computes exp2. The
running maximum and sum follow FlashAttention-2 (arXiv 2307.08691), the split of the keys over
programs Flash-Decoding (Dao et al. 2023). Requires triton, so only the GPU path imports this file.
"""

from collections.abc import Callable
from typing import Any, Final

import triton
import triton.language as tl

INTERPRETED: Final = bool(triton.knobs.runtime.interpret)
# The interpreter represents bfloat16 as raw bits and would multiply those.
_CAST_TO_FLOAT32: Final = tl.constexpr(INTERPRETED)


def _jit(*varying: str) -> Callable[[Callable[..., Any]], Any]:
    """A Triton function that is not recompiled for other values of the `varying` arguments."""
    return triton.jit(do_not_specialize=varying)  # type: ignore[no-any-return, unused-ignore]


@_jit("tokens")
def store_kv(
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
    """Write a step's keys and values to their slots; tokens with a negative slot are skipped.

    Grid: (blocks of tokens, kv_heads). Arguments such as `key_token` are strides.
    """
    token = tl.program_id(0) * block + tl.arange(0, block)
    head = tl.program_id(1)
    slot = tl.load(slots + token, mask=token < tokens, other=-1)
    axis = tl.arange(0, dims)
    write_mask = (slot >= 0)[:, None] & (axis < dim)[None, :]
    page = (slot // page_tokens).to(tl.int64) * pool_page
    offset = page + (slot % page_tokens) * pool_place + head * pool_head
    offset = offset[:, None] + axis[None, :] * pool_dim  # (block, dims)
    token = token.to(tl.int64)[:, None]
    new = tl.load(key + token * key_token + head * key_head + axis[None, :], mask=write_mask)
    tl.store(keys + offset, new, mask=write_mask)
    new = tl.load(value + token * value_token + head * value_head + axis[None, :], mask=write_mask)
    tl.store(values + offset, new, mask=write_mask)


@_jit()
def _product(left: tl.tensor, right: tl.tensor, precision: tl.constexpr) -> tl.tensor:
    if _CAST_TO_FLOAT32:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, input_precision=precision)


@_jit()
def _attend_range(
    acc: tl.tensor,
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
    """Attend keys `begin` … `end` - 1; unless `masked`, all queries see them, in full blocks."""
    axis = tl.arange(0, dims)
    for first in range(begin, end, block):
        token = first + tl.arange(0, block)
        in_range = token < end
        dim_mask = (axis < dim)[None, :]
        if masked:
            page = tl.load(pages + token // page_tokens, mask=in_range, other=0)
            dim_mask = dim_mask & in_range[:, None]
        else:
            page = tl.load(pages + token // page_tokens)
        offset = page.to(tl.int64) * pool_page + (token % page_tokens) * pool_place
        offset = offset[:, None] + axis[None, :] * pool_dim  # (block, dims)
        if masked or dim != dims:
            key = tl.load(keys + offset, mask=dim_mask, other=0.0)
            value = tl.load(values + offset, mask=dim_mask, other=0.0)
        else:
            key = tl.load(keys + offset)
            value = tl.load(values + offset)
        scores = _product(queries, tl.trans(key), precision) * scale  # (queries, block)
        if masked:
            visible = in_range[None, :] & (token[None, :] <= position[:, None])
            if windowed:
                visible = visible & (token[None, :] > position[:, None] - window)
            scores = tl.where(visible, scores, float("-inf"))
        new_peak = tl.maximum(peak, tl.max(scores, 1))
        # The peak of a query that saw no key yet is -inf, and -inf - -inf is NaN.
        finite_peak = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        weights = tl.exp2(scores - finite_peak[:, None])
        rescale = tl.exp2(peak - finite_peak)
        total = total * rescale + tl.sum(weights, 1)
        acc = acc * rescale[:, None] + _product(weights.to(value.dtype), value, precision)
        peak = new_peak
    return acc, total, peak


@_jit()
def _split_range(
    low: tl.tensor, high: tl.tensor, split: tl.tensor, splits: tl.tensor, block: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """The keys of `low` … `high` - 1 that a split attends: full blocks, except the last."""
    blocks = (tl.maximum(high - low, 0) + block - 1) // block
    split_keys = (blocks + splits - 1) // splits * block
    begin = low + split * split_keys
    return begin, tl.minimum(begin + split_keys, high)


@_jit()
def _attend_split(
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    pages: tl.tensor,
    token: tl.tensor,
    head_index: tl.tensor,
    in_range: tl.tensor,
    position: tl.tensor,
    begin: tl.tensor,
    middle: tl.tensor,
    end: tl.tensor,
    window: tl.tensor,
    scale: tl.tensor,
    query_token: tl.tensor,
    query_head: tl.tensor,
    pool_page: tl.tensor,
    pool_place: tl.tensor,
    pool_dim: tl.tensor,
    windowed: tl.constexpr,
    page_tokens: tl.constexpr,
    dim: tl.constexpr,
    dims: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
    precision: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Attend keys `begin` … `end` - 1 of a head; all queries see those before `middle`."""
    axis = tl.arange(0, dims)
    queries = tl.load(
        query + (token * query_token + head_index * query_head)[:, None] + axis[None, :],
        mask=in_range[:, None] & (axis < dim)[None, :],
        other=0.0,
    )  # (rows, dims)
    acc, total = tl.full((rows, dims), 0.0, tl.float32), tl.full((rows,), 0.0, tl.float32)
    peak = tl.full((rows,), float("-inf"), tl.float32)
    if not windowed:
        acc, total, peak = _attend_range(
            acc, total, peak, queries, keys, values, pages, begin, middle, position, window,
            scale, pool_page, pool_place, pool_dim, False, False, page_tokens, dim, dims, block,
            precision,
        )  # fmt: skip
    acc, total, peak = _attend_range(
        acc, total, peak, queries, keys, values, pages, middle, end, position, window,
        scale, pool_page, pool_place, pool_dim, True, windowed, page_tokens, dim, dims, block,
        precision,
    )  # fmt: skip
    return acc, total, peak


@_jit()
def _store_part(
    parts: tl.tensor,
    totals: tl.tensor,
    peaks: tl.tensor,
    part: tl.tensor,
    acc: tl.tensor,
    total: tl.tensor,
    peak: tl.tensor,
    write_mask: tl.tensor,
    filled: tl.tensor,
    dim: tl.constexpr,
    dims: tl.constexpr,
) -> None:
    """Write the result of a split to the place `part` of each query; no content if not `filled`."""
    axis = tl.arange(0, dims)
    tl.store(peaks + part, peak, mask=write_mask)
    tl.store(totals + part, total, mask=write_mask)
    mask = (write_mask & filled)[:, None] & (axis < dim)[None, :]
    tl.store(parts + part[:, None] * dim + axis[None, :], acc, mask=mask)


@_jit("splits", "parts_per_row", "first_part", "window", "scale")
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
    first_own: tl.tensor,
    splits: tl.tensor,
    parts_per_row: tl.tensor,
    first_part: tl.tensor,
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
    resumed: tl.constexpr,
    unsplit: tl.constexpr,
    windowed: tl.constexpr,
    group: tl.constexpr,
    page_tokens: tl.constexpr,
    dim: tl.constexpr,
    dims: tl.constexpr,
    tile_tokens: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Attention of tiles. Grid: (tiles, kv_heads, splits).

    A tile is up to `tile_tokens` tokens of a chunk times the heads of a group, `rows` in total;
    with `single`, tile i is chunk i, whose token is row i. With `unsplit`, there is one split,
    written to `out`; otherwise the results of each split go to `parts`, `totals` and `peaks`, at
    `first_part` and following of the `parts_per_row` places of a row.

    With `resumed`, single tokens see only their keys from `first_own` on, after `attend_shared`;
    those that share none mark the places before `first_part` as empty.
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
    padding = tl.load(chunks + 5 * chunk + 4)

    row = tl.arange(0, rows)
    index = first + row // group
    in_range = (row // group < tile_tokens) & (index < length)
    if single:
        token = (chunk + row // group).to(tl.int64)
        write_mask = row // group < tile_tokens  # rows without a token get zeros
    else:
        token = (tl.load(chunks + 5 * chunk + 1) + index).to(tl.int64)
        write_mask = in_range
    head_index = head * group + row % group

    low = tl.maximum(padding, start + first - window + 1)
    if resumed:
        low = tl.maximum(low, tl.load(first_own + chunk))
    begin, end = _split_range(
        low, start + tl.minimum(first + tile_tokens, length), split, splits, block
    )
    if windowed:
        middle = begin
    else:  # blocks before the first query's own key are visible to all queries
        unmasked_end = low + tl.maximum(start + first + 1 - low, 0) // block * block
        middle = tl.minimum(tl.maximum(unmasked_end, begin), end)
    acc, total, peak = _attend_split(
        query, keys + head * pool_head, values + head * pool_head, pages, token, head_index,
        in_range, start + index, begin, middle, end, window, scale, query_token, query_head,
        pool_page, pool_place, pool_dim, windowed, page_tokens, dim, dims, rows, block, precision,
    )  # fmt: skip

    if unsplit:
        axis = tl.arange(0, dims)
        acc = acc / tl.where(total > 0.0, total, 1.0)[:, None]
        offset = (token * out_token + head_index * dim)[:, None] + axis[None, :]
        mask = write_mask[:, None] & (axis < dim)[None, :]
        tl.store(out + offset, acc.to(out.dtype.element_ty), mask=mask)
    else:
        heads = tl.num_programs(1) * group
        part = (token * heads + head_index) * parts_per_row
        if resumed and split == 0 and tl.load(first_own + chunk) == 0:
            for empty in range(first_part):
                tl.store(peaks + part + empty, float("-inf"), mask=write_mask)
        part += first_part + split
        _store_part(
            parts, totals, peaks, part, acc, total, peak, write_mask, begin < end, dim, dims
        )


@_jit("splits", "parts_per_row", "scale")
def attend_shared(
    query: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    parts: tl.tensor,
    totals: tl.tensor,
    peaks: tl.tensor,
    pages: tl.tensor,
    tiles: tl.tensor,
    members: tl.tensor,
    splits: tl.tensor,
    parts_per_row: tl.tensor,
    scale: tl.tensor,
    query_token: tl.tensor,
    query_head: tl.tensor,
    pool_page: tl.tensor,
    pool_head: tl.tensor,
    pool_place: tl.tensor,
    pool_dim: tl.tensor,
    group: tl.constexpr,
    page_tokens: tl.constexpr,
    dim: tl.constexpr,
    dims: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Attention of single tokens over the pages that they share. Grid: (tiles, kv_heads, splits).

    A tile is tokens that begin with the same pages (see `SharedTiles`) times the heads of a group,
    up to `rows`. Each split's results go to the first of the `parts_per_row` places of a row.
    """
    head, split = tl.program_id(1), tl.program_id(2)
    tiles += 4 * tl.program_id(0)
    shared_keys = tl.load(tiles + 3)
    row = tl.arange(0, rows)
    in_range = row // group < tl.load(tiles + 1)
    member = tl.load(members + tl.load(tiles) + row // group, mask=in_range, other=0)
    token, head_index = member.to(tl.int64), head * group + row % group

    begin, end = _split_range(0, shared_keys, split, splits, block)
    middle = tl.minimum(tl.maximum(shared_keys // block * block, begin), end)
    acc, total, peak = _attend_split(
        query, keys + head * pool_head, values + head * pool_head, pages + tl.load(tiles + 2),
        token, head_index, in_range, row * 0 + shared_keys, begin, middle, end, shared_keys, scale,
        query_token, query_head, pool_page, pool_place, pool_dim, False, page_tokens, dim, dims,
        rows, block, precision,
    )  # fmt: skip
    part = (token * tl.num_programs(1) * group + head_index) * parts_per_row + split
    _store_part(parts, totals, peaks, part, acc, total, peak, in_range, begin < end, dim, dims)


@_jit("splits")
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
    """Combine the splits, one (token, head) per program; zeros if no split saw a key."""
    row = tl.program_id(0).to(tl.int64)
    axis = tl.arange(0, dims)
    acc = tl.full((dims,), 0.0, tl.float32)
    total = 0.0
    peak = float("-inf")
    for first in range(0, splits, block):
        split = first + tl.arange(0, block)
        in_range = split < splits
        part = row * splits + split
        split_peaks = tl.load(peaks + part, mask=in_range, other=float("-inf"))
        non_empty = split_peaks > float("-inf")
        new_peak = tl.maximum(peak, tl.max(split_peaks, 0))
        finite_peak = tl.where(new_peak == float("-inf"), 0.0, new_peak)
        rescale = tl.exp2(peak - finite_peak)
        weights = tl.exp2(split_peaks - finite_peak)
        sums = tl.load(totals + part, mask=non_empty, other=0.0)
        total = total * rescale + tl.sum(weights * sums, 0)
        dim_mask = non_empty[:, None] & (axis < dim)[None, :]
        content = tl.load(parts + part[:, None] * dim + axis[None, :], mask=dim_mask, other=0.0)
        acc = acc * rescale + tl.sum(weights[:, None] * content, 0)
        peak = new_peak
    acc = acc / tl.where(total > 0.0, total, 1.0)
    tl.store(out + row * dim + axis, acc.to(out.dtype.element_ty), mask=axis < dim)
