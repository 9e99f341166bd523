"""What the GPU's attention is told of a step, as tensors."""

from collections.abc import Sequence
from itertools import chain
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.attention.interface import Context
from engine.attention.triton_tiles import Cut, split_singles, split_tiles

Integers = npt.NDArray[np.int32]
ALIGNED: Final = 4  # int32s: kernels are compiled for tensors that begin at 16 bytes
NOWHERE: Final = -1  # the slot of a token that is not kept


class TritonPlan(NamedTuple):
    """A step for the kernels; all tensors are int32.

    A chunk is (its first page's place in `pages`, its first token's row, start, length, hidden).
    Chunks of a single token are the first `singles` ones, each in its own row. Longer ones, their
    rows counted behind those, are cut into tiles, each (chunk, first token within it). Keys of a
    single token are split over `splits` programs, those of a tile over `tile_splits`.
    """

    slots: Tensor  # (tokens,) page * page_tokens + place, or NOWHERE
    chunks: Tensor  # (chunks, 5)
    pages: Tensor  # (pages of all chunks,)
    tiles: Tensor  # (tiles, 2)
    singles: int
    longest: int  # context among the single tokens
    splits: int
    tile_splits: int


def plan_step(
    contexts: Sequence[Context], page_tokens: int, cut: Cut, device: torch.device
) -> TritonPlan:
    """The plan of a step's chunks; one copy to the device."""
    start, length, hidden, held = _columns(contexts)
    singles = int(np.searchsorted(length > 1, 1))
    rows = np.cumsum(length) - length
    at = np.cumsum(held) - held
    pages = np.fromiter(
        chain.from_iterable(context.pages for context in contexts), np.int32, int(held.sum())
    )
    owner = np.repeat(np.arange(len(contexts)), length)  # (tokens,)
    position = np.arange(len(owner)) + (start - rows)[owner]
    slots = pages[at[owner] + position // page_tokens] * page_tokens + position % page_tokens
    chunks = np.stack([at, rows - singles, start, length, hidden], 1)
    tiles = _tiles(start, length, singles, cut.most)
    longest, farthest = (int(part.max(initial=0)) for part in np.split(start + length, [singles]))
    placed = _put([slots, chunks, pages, tiles], device)
    return TritonPlan(
        slots=placed[0],
        chunks=placed[1],
        pages=placed[2],
        tiles=placed[3],
        singles=singles,
        longest=longest,
        splits=split_singles(cut, singles, longest),
        tile_splits=split_tiles(cut, len(tiles), farthest),
    )


def _columns(contexts: Sequence[Context]) -> tuple[Integers, Integers, Integers, Integers]:
    """Start, length, hidden and number of pages of every chunk."""
    records = [(c.start, c.length, c.hidden, len(c.pages)) for c in contexts]
    table = np.array(records, dtype=np.int32).reshape(-1, 4)
    return table[:, 0], table[:, 1], table[:, 2], table[:, 3]


def _tiles(start: Integers, length: Integers, singles: int, most: int) -> Integers:
    """Tiles of all longer chunks, (tiles, 2); those with most keys first, as they take longest."""
    counts = -(-length // most)
    counts[:singles] = 0
    chunk = np.repeat(np.arange(len(length)), counts)
    first = (np.arange(len(chunk)) - (np.cumsum(counts) - counts)[chunk]) * most
    order = np.argsort(-(start[chunk] + first), kind="stable")
    return np.stack([chunk, first], 1)[order].astype(np.int32)


def _put(arrays: Sequence[npt.NDArray[np.integer]], device: torch.device) -> list[Tensor]:
    """The arrays on the device as int32, each aligned, in one copy."""
    sizes = [-(-array.size // ALIGNED) * ALIGNED for array in arrays]
    host = torch.empty(sum(sizes), dtype=torch.int32, pin_memory=device.type == "cuda")
    view, at = host.numpy(), 0
    for array, size in zip(arrays, sizes, strict=True):
        view[at : at + array.size] = array.ravel()
        at += size
    sent = host.to(device, non_blocking=True).split(sizes)
    return [part[: array.size].view(array.shape) for part, array in zip(sent, arrays, strict=True)]


class StandingPlan:
    """A plan of single tokens in tensors that stay where they are, for CUDA graphs.

    It holds up to `rows` tokens with contexts of up to `longest` tokens; rows beyond those last
    filled in belong to nobody: they keep nothing, see nothing and get zeros.
    """

    def __init__(
        self, rows: int, longest: int, page_tokens: int, cut: Cut, device: torch.device
    ) -> None:
        self._longest = longest
        self._cut = cut
        self._filled = 0
        self._slots = torch.full((rows,), NOWHERE, dtype=torch.int32, device=device)
        self._chunks = torch.zeros((rows, 5), dtype=torch.int32, device=device)
        pages = rows * -(-longest // page_tokens)
        self._pages = torch.zeros(pages, dtype=torch.int32, device=device)
        self._tiles = torch.zeros((0, 2), dtype=torch.int32, device=device)

    def takes(self, plan: TritonPlan) -> bool:
        """Whether a plan has single tokens only, and fits."""
        return (
            len(plan.chunks) == plan.singles <= len(self._slots)
            and plan.longest <= self._longest
            and len(plan.pages) <= len(self._pages)
        )

    def first(self, rows: int) -> TritonPlan:
        """The plan of the first rows; it holds whatever is filled in later."""
        return TritonPlan(
            slots=self._slots[:rows],
            chunks=self._chunks[:rows],
            pages=self._pages,
            tiles=self._tiles,
            singles=rows,
            longest=self._longest,
            splits=split_singles(self._cut, rows, self._longest),
            tile_splits=1,
        )

    def fill(self, plan: TritonPlan) -> None:
        """Take over a plan; in the stream's order, as all that reads it is."""
        rows = plan.singles
        self._slots[:rows] = plan.slots
        self._chunks[:rows] = plan.chunks
        self._pages[: len(plan.pages)] = plan.pages
        if rows < self._filled:
            self._slots[rows : self._filled] = NOWHERE
            self._chunks[rows : self._filled] = 0
        self._filled = rows
