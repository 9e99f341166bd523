"""Paged attention on a GPU by Triton kernels: stores keys and values, then attends."""

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from engine.attention.interface import Context
from engine.attention.shared_pages import SharingGate
from engine.attention.triton_plan import SharedTiles, StaticPlan, TritonPlan, plan_step
from engine.attention.triton_tiles import (
    LaunchShape,
    Tile,
    chunk_tile,
    padded_size,
    shared_tile,
    single_tile,
)
from engine.kv.store import KvStore

NO_WINDOW: Final = 2**30  # larger than any context
WRITE_BLOCK: Final = 16  # tokens written per program
COMBINE_BLOCK: Final = 16  # splits combined at a time
# Reading shared pages once is not measured on a GPU yet: `make bench F=attention` on one does.
GATE: Final[SharingGate | None] = None


class _Parts(NamedTuple):
    """The partial results of the splits of each row, `per_row` of them."""

    content: Tensor  # (tokens, heads, per_row, dim)
    totals: Tensor  # (tokens, heads, per_row)
    peaks: Tensor  # (tokens, heads, per_row)
    per_row: int


class _Launch(NamedTuple):
    """A launch of `attend`, over either the single tokens or the tiles of longer chunks.

    `query` and `out` are (tokens, heads, dim). Without `parts`, there is one split. `resumed`: the
    first keys of some single tokens are in the first parts already.
    """

    query: Tensor
    out: Tensor
    tile: Tile
    tiles: int
    splits: int
    single: bool
    parts: _Parts | None
    resumed: SharedTiles | None = None


class TritonAttention:
    """Attention in place over the pages of a store, for a model with `heads` query heads.

    Single tokens and longer chunks are two launches of the same kernel. With a `gate`, the pages
    that single tokens share are read once, by another kernel.
    Products are full float32 unless `tf32` is allowed. `multiprocessors` defaults to the GPU's
    number; without a GPU, Triton's interpreter runs the kernels.
    """

    def __init__(
        self,
        store: KvStore,
        heads: int,
        *,
        tf32: bool = False,
        multiprocessors: int | None = None,
        gate: SharingGate | None = GATE,
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
        self._shared_tile = shared_tile(self._group, dim, pool.dtype)
        self._gate = gate
        self._shape = LaunchShape(
            self._tile.rows // self._group,
            kv_heads,
            multiprocessors or _multiprocessors(pool.device),
            self._shared_tile.rows // self._group,
        )

    def plan(self, contexts: Sequence[Context]) -> TritonPlan:
        """Plan a step: its tensors on the device, in one copy."""
        return plan_step(contexts, self._page_tokens, self._shape, self._device, self._gate)

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
        single_out, tile_out = out[:singles], out[singles:]
        shared = plan.shared if window is None or window >= plan.max_context else None
        splits, before = (shared.single_splits, shared.splits) if shared else (plan.splits, 0)
        single_launch = _Launch(
            query[:singles], single_out, self._single, singles, splits, True,
            _parts(single_out, before + splits), shared,
        )  # fmt: skip
        tile_launch = _Launch(
            query[singles:], tile_out, self._tile, tiles, plan.tile_splits, False,
            _parts(tile_out, plan.tile_splits),
        )  # fmt: skip
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
        kv_heads, shared = keys.shape[1], launch.resumed
        parts = launch.parts or _Parts(launch.out, launch.out, launch.out, 1)
        if shared:
            self._attend_shared(launch.query, parts, shared, plan.pages, layer, scale)
        self._kernels.attend[launch.tiles, kv_heads, launch.splits](
            launch.query,
            keys,
            values,
            launch.out,
            *parts[:3],
            plan.pages,
            plan.chunks,
            plan.tiles,
            shared.first_own if shared else plan.tiles,
            launch.splits,
            parts.per_row,
            shared.splits if shared else 0,
            NO_WINDOW if window is None else window,
            scale * math.log2(math.e),
            *launch.query.stride()[:2],
            launch.out.stride(0),
            *keys.stride(),
            single=launch.single,
            resumed=shared is not None,
            unsplit=launch.parts is None,
            windowed=window is not None and not launch.single,
            tile_tokens=1 if launch.single else self._shape.tile_tokens,
            **self._sizes(launch.tile),
        )
        if launch.parts:
            self._kernels.combine[(launch.out.shape[0] * launch.out.shape[1],)](
                *parts[:3],
                launch.out,
                parts.per_row,
                dim=keys.shape[3],
                dims=padded_size(keys.shape[3]),
                block=COMBINE_BLOCK,
                num_warps=4,
            )

    def _attend_shared(
        self,
        query: Tensor,
        parts: _Parts,
        shared: SharedTiles,
        pages: Tensor,
        layer: int,
        scale: float,
    ) -> None:
        keys, values = self.store.keys[layer], self.store.values[layer]
        self._kernels.attend_shared[len(shared.tiles), keys.shape[1], shared.splits](
            query,
            keys,
            values,
            *parts[:3],
            pages,
            shared.tiles,
            shared.members,
            shared.splits,
            parts.per_row,
            scale * math.log2(math.e),
            *query.stride()[:2],
            *keys.stride(),
            **self._sizes(self._shared_tile),
        )

    def _sizes(self, tile: Tile) -> dict[str, Any]:
        """The constants of a kernel that attends tiles of this size."""
        dim = self.store.shape.head_dim
        return {
            "group": self._group,
            "page_tokens": self._page_tokens,
            "dim": dim,
            "dims": padded_size(dim),
            "rows": tile.rows,
            "block": tile.block,
            "precision": self._precision,
            "num_warps": tile.warps,
            "num_stages": tile.stages,
        }


def _parts(out: Tensor, splits: int) -> _Parts | None:
    """Buffers for the parts of `splits` splits; None if there is one, which goes to `out`."""
    if splits == 1:
        return None
    tokens, heads, dim = out.shape
    content = torch.empty((tokens, heads, splits, dim), dtype=torch.float32, device=out.device)
    sums = torch.empty((2, tokens, heads, splits), dtype=torch.float32, device=out.device)
    return _Parts(content, sums[0], sums[1], splits)


def _dense_rows(tensor: Tensor) -> Tensor:
    """The tensor with a contiguous last axis."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
