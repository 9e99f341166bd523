"""The plan of a step for the GPU's attention, as tensors."""

from collections.abc import Sequence
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.attention.interface import Context
from engine.attention.shared_pages import (
    SharingGate,
    disjoint_groups,
    find_shared_pages,
)
from engine.attention.tables import PageTables
from engine.attention.triton_tiles import LaunchShape, split_singles, split_tiles

Int32Array = npt.NDArray[np.int32]
ALIGNMENT: Final = 4  # int32s: kernels are compiled for tensors aligned to 16 bytes
NO_SLOT: Final = -1  # slot of a token that is not stored


class SharedTiles(NamedTuple):
    """The pages that single tokens share; all tensors are int32.

    A tile is (place of its first token in `members`, number of tokens, index of the first of its
    pages in the plan's `pages`, number of keys). Its keys are split over `splits` programs, those
    that a token does not share over `single_splits`.
    """

    tiles: Tensor  # (tiles, 4)
    members: Tensor  # (singles,) rows
    first_own: Tensor  # (singles,) the first key that a row does not share
    splits: int
    single_splits: int


class TritonPlan(NamedTuple):
    """A step for the kernels; all tensors are int32.

    A chunk is (index of its first page in `pages`, row of its first token, start, length, padding).
    The first `singles` chunks have a single token, each in the row of its index. Longer ones, whose
    rows are counted from `singles` on, are cut into tiles (chunk, first token within it). The keys
    of a single token are split over `splits` programs, those of a tile over `tile_splits`.
    """

    slots: Tensor  # (tokens,) page * page_tokens + offset, or NO_SLOT
    chunks: Tensor  # (chunks, 5)
    pages: Tensor  # (pages of all chunks,)
    tiles: Tensor  # (tiles, 2)
    singles: int
    max_context: int  # longest context of a single token
    splits: int
    tile_splits: int
    shared: SharedTiles | None = None


def plan_step(
    contexts: Sequence[Context],
    page_tokens: int,
    shape: LaunchShape,
    device: torch.device,
    gate: SharingGate | None = None,
) -> TritonPlan:
    """The plan of a step's chunks, moved to the device in one copy.

    With a `gate`, pages that single tokens share are read once for tiles of them.
    """
    start, length, padding, page_counts = _columns(contexts)
    singles = int(np.searchsorted(length > 1, 1))
    rows = np.cumsum(length) - length
    at = np.cumsum(page_counts) - page_counts
    pages = np.fromiter(
        chain.from_iterable(context.pages for context in contexts), np.int32, int(page_counts.sum())
    )
    token_chunk = np.repeat(np.arange(len(contexts)), length)  # (tokens,)
    position = np.arange(len(token_chunk)) + (start - rows)[token_chunk]
    slots = pages[at[token_chunk] + position // page_tokens] * page_tokens + position % page_tokens
    chunks = np.stack([at, rows - singles, start, length, padding], 1)
    tiles = _tiles(start, length, singles, shape.tile_tokens)
    max_context, max_tile_context = (
        int(part.max(initial=0)) for part in np.split(start + length, [singles])
    )
    shared = None
    if gate and singles >= gate.rows:
        tables = PageTables(
            *(column.astype(np.int64) for column in (start, length, padding, page_counts, pages))
        )
        shared = _shared_tiles(tables, singles, page_tokens, shape, gate)
    tensors = _to_device([slots, chunks, pages, tiles, *(shared or ())], device)
    return TritonPlan(
        slots=tensors[0],
        chunks=tensors[1],
        pages=tensors[2],
        tiles=tensors[3],
        singles=singles,
        max_context=max_context,
        splits=split_singles(shape, singles, max_context),
        tile_splits=split_tiles(shape, len(tiles), max_tile_context),
        shared=_on_device(shared, tensors[4:], shape, start[:singles]) if shared else None,
    )


def _on_device(
    host: "_HostTiles", tensors: list[Tensor], shape: LaunchShape, start: Int32Array
) -> SharedTiles:
    """Shared tiles with their `tensors` on the device, and how their keys are split."""
    tiles, members, first_own = tensors
    longest_own = int((start + 1 - host.first_own).max())
    return SharedTiles(
        tiles=tiles,
        members=members,
        first_own=first_own,
        splits=split_tiles(shape, len(host.tiles), int(host.tiles[:, 3].max())),
        single_splits=split_singles(shape, len(start), longest_own),
    )


class _HostTiles(NamedTuple):
    """The arrays of `SharedTiles`."""

    tiles: npt.NDArray[np.int64]
    members: npt.NDArray[np.int64]
    first_own: npt.NDArray[np.int64]


def _shared_tiles(
    tables: PageTables, singles: int, page_tokens: int, shape: LaunchShape, gate: SharingGate
) -> _HostTiles | None:
    """The tiles of the pages that the first chunks share, or None."""
    found = find_shared_pages(tables, tables.padding[:singles], page_tokens, gate)
    groups = disjoint_groups(found, gate.rows) if found else []
    if not found or not groups:
        return None
    first_own = np.zeros(singles, dtype=np.int64)
    for group in groups:
        rows = found.order[group.first : group.first + group.rows]
        first_own[rows] = group.pages * page_tokens
    tiles = [
        (first, min(shape.shared_rows, group.first + group.rows - first), offset, keys)
        for group in groups
        for offset, keys in [(tables.offsets[found.order[group.first]], group.pages * page_tokens)]
        for first in range(group.first, group.first + group.rows, shape.shared_rows)
    ]
    return _HostTiles(np.array(tiles), found.order, first_own)


def _columns(contexts: Sequence[Context]) -> tuple[Int32Array, Int32Array, Int32Array, Int32Array]:
    """Start, length, padding and number of pages of each chunk, (chunks,) each."""
    records = [(c.start, c.length, c.padding, len(c.pages)) for c in contexts]
    table = np.array(records, dtype=np.int32).reshape(-1, 4)
    return table[:, 0], table[:, 1], table[:, 2], table[:, 3]


def _tiles(start: Int32Array, length: Int32Array, singles: int, tile_tokens: int) -> Int32Array:
    """Tiles of all longer chunks, (tiles, 2); most keys first, because these take longest."""
    counts = -(-length // tile_tokens)
    counts[:singles] = 0
    chunk = np.repeat(np.arange(len(length)), counts)
    first = (np.arange(len(chunk)) - (np.cumsum(counts) - counts)[chunk]) * tile_tokens
    order = np.argsort(-(start[chunk] + first), kind="stable")
    return np.stack([chunk, first], 1)[order].astype(np.int32)


def _to_device(arrays: Sequence[npt.NDArray[np.integer]], device: torch.device) -> list[Tensor]:
    """Move the arrays to the device as int32, each aligned, in one copy."""
    sizes = [-(-array.size // ALIGNMENT) * ALIGNMENT for array in arrays]
    host = torch.empty(sum(sizes), dtype=torch.int32, pin_memory=device.type == "cuda")
    view, at = host.numpy(), 0
    for array, size in zip(arrays, sizes, strict=True):
        view[at : at + array.size] = array.ravel()
        at += size
    parts = host.to(device, non_blocking=True).split(sizes)
    return [part[: array.size].view(array.shape) for part, array in zip(parts, arrays, strict=True)]


class StaticPlan:
    """A plan of single tokens in tensors with fixed addresses, for CUDA graphs.

    Holds up to `rows` tokens with contexts of up to `max_context` tokens. Rows beyond the filled
    ones are unused: they store nothing, see nothing and get zeros.
    """

    def __init__(
        self,
        rows: int,
        max_context: int,
        page_tokens: int,
        shape: LaunchShape,
        device: torch.device,
    ) -> None:
        self._max_context = max_context
        self._shape = shape
        self._filled = 0
        self._slots = torch.full((rows,), NO_SLOT, dtype=torch.int32, device=device)
        self._chunks = torch.zeros((rows, 5), dtype=torch.int32, device=device)
        pages = rows * -(-max_context // page_tokens)
        self._pages = torch.zeros(pages, dtype=torch.int32, device=device)
        self._tiles = torch.zeros((0, 2), dtype=torch.int32, device=device)

    def fits(self, plan: TritonPlan) -> bool:
        """Whether a plan consists of single tokens only, without shared tiles, and fits."""
        return (
            plan.shared is None
            and len(plan.chunks) == plan.singles <= len(self._slots)
            and plan.max_context <= self._max_context
            and len(plan.pages) <= len(self._pages)
        )

    def first_rows(self, rows: int) -> TritonPlan:
        """The plan of the first rows; a view of what is filled in later."""
        return TritonPlan(
            slots=self._slots[:rows],
            chunks=self._chunks[:rows],
            pages=self._pages,
            tiles=self._tiles,
            singles=rows,
            max_context=self._max_context,
            splits=split_singles(self._shape, rows, self._max_context),
            tile_splits=1,
        )

    def fill(self, plan: TritonPlan) -> None:
        """Copy a plan in; ordered on the stream like the kernels that read it."""
        rows = plan.singles
        self._slots[:rows] = plan.slots
        self._chunks[:rows] = plan.chunks
        self._pages[: len(plan.pages)] = plan.pages
        if rows < self._filled:
            self._slots[rows : self._filled] = NO_SLOT
            self._chunks[rows : self._filled] = 0
        self._filled = rows
