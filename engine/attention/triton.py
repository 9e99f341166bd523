"""Paged attention on a GPU: keeps keys and values, then attends, by kernels in Triton."""

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from engine.attention.interface import Context
from engine.attention.triton_plan import StandingPlan, TritonPlan, plan_step
from engine.attention.triton_tiles import Cut, Tile, chunk_tile, padded, single_tile
from engine.kv.store import KvStore

UNLIMITED: Final = 2**30  # a window no context reaches
KEPT: Final = 16  # tokens that one program writes
COMBINED: Final = 16  # splits put together at a time


class _Work(NamedTuple):
    """One launch's queries, where their results go, and how it is cut: all tiles, or all singles.

    `query` and `out` are (tokens, heads, dim).
    """

    query: Tensor
    out: Tensor
    tile: Tile
    tiles: int
    splits: int
    single: bool


class TritonAttention:
    """The pages of a store, read and written where they lie; for models with so many `heads`.

    Single tokens and longer chunks are two launches of one kernel. In float32 products are exact
    unless `tf32` is allowed. `processors` are the GPU's; elsewhere Triton's interpreter computes.
    """

    def __init__(
        self, store: KvStore, heads: int, *, tf32: bool = False, processors: int | None = None
    ) -> None:
        # Triton comes with torch's CUDA builds alone.
        from engine.attention import triton_kernels  # noqa: PLC0415

        pool = store.keys[0]
        _, kv_heads, page_tokens, dim = pool.shape
        assert heads % kv_heads == 0, "every group has as many heads"
        assert all(
            keys.stride() == values.stride() == pool.stride()
            for keys, values in zip(store.keys, store.values, strict=True)
        ), "keys and values of all layers lie alike"
        self.store = store
        self._kernels: Any = triton_kernels
        self._device = pool.device
        self._page_tokens = page_tokens
        self._group = heads // kv_heads
        self._precision = "tf32" if tf32 else "ieee"
        self._single = single_tile(self._group, dim, pool.dtype)
        self._tile = chunk_tile(self._group, dim, pool.dtype)
        most = self._tile.rows // self._group
        self._cut = Cut(most, kv_heads, processors or _processors(pool.device))

    def plan(self, contexts: Sequence[Context]) -> TritonPlan:
        """A step's tensors on the device; one copy."""
        return plan_step(contexts, self._page_tokens, self._cut, self._device)

    def standing(self, rows: int, longest: int) -> StandingPlan:
        """A plan that stays in place, of up to `rows` single tokens, for CUDA graphs."""
        return StandingPlan(rows, longest, self._page_tokens, self._cut, self._device)

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
        """Keep keys and values, then attend: (tokens, heads, dim) gives the same shape."""
        query, key, value = (_rows(tensor) for tensor in (query, key, value))
        self._keep(plan.slots, layer, key, value)
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        singles, tiles = plan.singles, len(plan.tiles)
        ahead = _Work(query[:singles], out[:singles], self._single, singles, plan.splits, True)
        rest = _Work(query[singles:], out[singles:], self._tile, tiles, plan.tile_splits, False)
        for work in (ahead, rest):
            if work.tiles:
                self._launch(work, plan, layer, scale, window)
        return out

    def _keep(self, slots: Tensor, layer: int, key: Tensor, value: Tensor) -> None:
        tokens, kv_heads, dim = key.shape
        keys, values = self.store.keys[layer], self.store.values[layer]
        self._kernels.keep[-(-tokens // KEPT), kv_heads](
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
            dims=padded(dim),
            block=KEPT,
            num_warps=4,
        )

    def _launch(
        self, work: _Work, plan: TritonPlan, layer: int, scale: float, window: int | None
    ) -> None:
        keys, values = self.store.keys[layer], self.store.values[layer]
        _, kv_heads, page_tokens, dim = keys.shape
        whole = work.splits == 1
        parts, totals, peaks = (work.out,) * 3 if whole else _parts(work.out, work.splits)
        self._kernels.attend[work.tiles, kv_heads, work.splits](
            work.query,
            keys,
            values,
            work.out,
            parts,
            totals,
            peaks,
            plan.pages,
            plan.chunks,
            plan.tiles,
            work.splits,
            UNLIMITED if window is None else window,
            scale * math.log2(math.e),
            *work.query.stride()[:2],
            work.out.stride(0),
            *keys.stride(),
            single=work.single,
            whole=whole,
            windowed=window is not None and not work.single,
            group=self._group,
            page_tokens=page_tokens,
            dim=dim,
            dims=padded(dim),
            most=1 if work.single else self._cut.most,
            rows=work.tile.rows,
            block=work.tile.block,
            precision=self._precision,
            num_warps=work.tile.warps,
            num_stages=work.tile.stages,
        )
        if not whole:
            self._kernels.combine[(work.out.shape[0] * work.out.shape[1],)](
                parts,
                totals,
                peaks,
                work.out,
                work.splits,
                dim=dim,
                dims=padded(dim),
                block=COMBINED,
                num_warps=4,
            )


def _parts(out: Tensor, splits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Room for what each split has of each row: values (tokens, heads, splits, dim), two sums."""
    tokens, heads, dim = out.shape
    parts = torch.empty((tokens, heads, splits, dim), dtype=torch.float32, device=out.device)
    sums = torch.empty((2, tokens, heads, splits), dtype=torch.float32, device=out.device)
    return parts, sums[0], sums[1]


def _rows(tensor: Tensor) -> Tensor:
    """The tensor, its last axis without gaps."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
