"""Paged attention on a GPU by Triton kernels: stores keys and values, then attends."""

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from engine.attention.interface import Context
from engine.attention.triton_plan import StaticPlan, TritonPlan, plan_step
from engine.attention.triton_tiles import LaunchShape, Tile, chunk_tile, padded_size, single_tile
from engine.kv.store import KvStore

NO_WINDOW: Final = 2**30  # larger than any context
WRITE_BLOCK: Final = 16  # tokens written per program
COMBINE_BLOCK: Final = 16  # splits combined at a time


class _Launch(NamedTuple):
    """One kernel launch, over either the single tokens or the tiles of longer chunks.

    `query` and `out` are (tokens, heads, dim).
    """

    query: Tensor
    out: Tensor
    tile: Tile
    tiles: int
    splits: int
    single: bool


class TritonAttention:
    """Attention in place over the pages of a store, for a model with `heads` query heads.

    Single tokens and longer chunks are two launches of the same kernel. Products are full float32
    unless `tf32` is allowed. `multiprocessors` defaults to the GPU's number; without a GPU,
    Triton's interpreter runs the kernels.
    """

    def __init__(
        self, store: KvStore, heads: int, *, tf32: bool = False, multiprocessors: int | None = None
    ) -> None:
        # Only CUDA builds of torch include Triton.
        from engine.attention import triton_kernels  # noqa: PLC0415

        pool = store.keys[0]
        _, kv_heads, page_tokens, dim = pool.shape
        assert heads % kv_heads == 0, "query heads do not divide into kv_heads"
        assert all(
            keys.stride() == values.stride() == pool.stride()
            for keys, values in zip(store.keys, store.values, strict=True)
        ), "layers differ in memory layout"
        self.store = store
        self._kernels: Any = triton_kernels
        self._device = pool.device
        self._page_tokens = page_tokens
        self._group = heads // kv_heads
        self._precision = "tf32" if tf32 else "ieee"
        self._single = single_tile(self._group, dim, pool.dtype)
        self._tile = chunk_tile(self._group, dim, pool.dtype)
        tile_tokens = self._tile.rows // self._group
        self._shape = LaunchShape(
            tile_tokens, kv_heads, multiprocessors or _multiprocessors(pool.device)
        )

    def plan(self, contexts: Sequence[Context]) -> TritonPlan:
        """Plan a step: its tensors on the device, in one copy."""
        return plan_step(contexts, self._page_tokens, self._shape, self._device)

    def static_plan(self, rows: int, max_context: int) -> StaticPlan:
        """A plan in fixed memory for up to `rows` single tokens, for CUDA graphs."""
        return StaticPlan(rows, max_context, self._page_tokens, self._shape, self._device)

    def attend(
        self,
        plan: TritonPlan,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scale: float,
        window: int | None,
    ) -> Tensor:
        """Store keys and values, then attend: (tokens, heads, dim) gives the same shape."""
        query, key, value = (_dense_rows(tensor) for tensor in (query, key, value))
        self._store_kv(plan.slots, layer, key, value)
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        singles, tiles = plan.singles, len(plan.tiles)
        single_launch = _Launch(
            query[:singles], out[:singles], self._single, singles, plan.splits, True
        )
        tile_launch = _Launch(
            query[singles:], out[singles:], self._tile, tiles, plan.tile_splits, False
        )
        for launch in (single_launch, tile_launch):
            if launch.tiles:
                self._launch(launch, plan, layer, scale, window)
        return out

    def _store_kv(self, slots: Tensor, layer: int, key: Tensor, value: Tensor) -> None:
        tokens, kv_heads, dim = key.shape
        keys, values = self.store.keys[layer], self.store.values[layer]
        self._kernels.store_kv[-(-tokens // WRITE_BLOCK), kv_heads](
            key,
            value,
            keys,
            values,
            slots,
            tokens,
            *key.stride()[:2],
            *value.stride()[:2],
            *keys.stride(),
            page_tokens=self._page_tokens,
            dim=dim,
            dims=padded_size(dim),
            block=WRITE_BLOCK,
            num_warps=4,
        )

    def _launch(
        self, launch: _Launch, plan: TritonPlan, layer: int, scale: float, window: int | None
    ) -> None:
        keys, values = self.store.keys[layer], self.store.values[layer]
        _, kv_heads, page_tokens, dim = keys.shape
        unsplit = launch.splits == 1
        parts, totals, peaks = (
            (launch.out,) * 3 if unsplit else _split_buffers(launch.out, launch.splits)
        )
        self._kernels.attend[launch.tiles, kv_heads, launch.splits](
            launch.query,
            keys,
            values,
            launch.out,
            parts,
            totals,
            peaks,
            plan.pages,
            plan.chunks,
            plan.tiles,
            launch.splits,
            NO_WINDOW if window is None else window,
            scale * math.log2(math.e),
            *launch.query.stride()[:2],
            launch.out.stride(0),
            *keys.stride(),
            single=launch.single,
            unsplit=unsplit,
            windowed=window is not None and not launch.single,
            group=self._group,
            page_tokens=page_tokens,
            dim=dim,
            dims=padded_size(dim),
            tile_tokens=1 if launch.single else self._shape.tile_tokens,
            rows=launch.tile.rows,
            block=launch.tile.block,
            precision=self._precision,
            num_warps=launch.tile.warps,
            num_stages=launch.tile.stages,
        )
        if not unsplit:
            self._kernels.combine[(launch.out.shape[0] * launch.out.shape[1],)](
                parts,
                totals,
                peaks,
                launch.out,
                launch.splits,
                dim=dim,
                dims=padded_size(dim),
                block=COMBINE_BLOCK,
                num_warps=4,
            )


def _split_buffers(out: Tensor, splits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Buffers per row and split: parts (tokens, heads, splits, dim), totals and peaks."""
    tokens, heads, dim = out.shape
    parts = torch.empty((tokens, heads, splits, dim), dtype=torch.float32, device=out.device)
    sums = torch.empty((2, tokens, heads, splits), dtype=torch.float32, device=out.device)
    return parts, sums[0], sums[1]


def _dense_rows(tensor: Tensor) -> Tensor:
    """The tensor with a contiguous last axis."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
