"""How the GPU's attention is cut into programs: tile sizes, and over how many keys are split."""

from typing import Final, NamedTuple

import torch

MIN_AXIS_SIZE: Final = 16  # rows and columns that tensor cores take at least
LARGE_HEAD_DIM: Final = 128  # elements of a head, beyond which a tile must be smaller
SINGLE_PROGRAMS: Final = (
    4  # programs that a multiprocessor takes at once; with fewer, keys are split
)
TILE_PROGRAMS: Final = 2
MAX_SPLITS: Final = 64  # at most: what is split is also put together again
MAX_PROGRAM_KEYS: Final = (
    4096  # keys that one program attends at most, so that none keeps the others waiting
)
MIN_PROGRAM_KEYS: Final = 64  # keys worth a program
MAX_PARTS: Final = (
    4096  # splits of all tokens together where not the GPU is to fill: they cost memory
)


class LaunchShape(NamedTuple):
    """How a step becomes programs: `tile_tokens` tokens of a chunk in one, each for one of `kv_heads`."""

    tile_tokens: int
    kv_heads: int
    multiprocessors: int  # the GPU's multiprocessors


class Tile(NamedTuple):
    """What one program holds: `rows` queries, `block` keys at a time."""

    rows: int
    block: int
    warps: int
    stages: int = 3  # page numbers one block ahead of the keys they lead to, those one ahead of use


def padded_size(count: int) -> int:
    """The power of two that a kernel's axis of so many elements has."""
    return max(MIN_AXIS_SIZE, 1 << (count - 1).bit_length())


def single_tile(group: int, dim: int, dtype: torch.dtype) -> Tile:
    """For chunks of one token: little to compute, so small that many programs share a processor."""
    rows = padded_size(group)
    if dtype == torch.float32:
        return Tile(rows, 16, warps=4)
    return Tile(rows, 32 if padded_size(dim) > LARGE_HEAD_DIM else 64, warps=4)


def chunk_tile(group: int, dim: int, dtype: torch.dtype) -> Tile:
    """For longer chunks: as many queries for each key read as registers hold."""
    if dtype == torch.float32:
        rows, block = 32, 16
    elif padded_size(dim) > LARGE_HEAD_DIM:
        rows, block = 64, 32
    else:
        rows, block = 128, 64
    return Tile(max(rows, padded_size(group)), block, warps=8)


def split_singles(shape: LaunchShape, tokens: int, max_context: int) -> int:
    """Over how many programs the keys of each single token are split, the longest context given.

    Programs without keys left end at once, so that a bound on the context may stand for it.
    """
    if not tokens:
        return 1
    to_fill = _splits_to_fill(
        SINGLE_PROGRAMS * shape.multiprocessors, tokens * shape.kv_heads, max_context
    )
    to_bound = min(-(-max_context // MAX_PROGRAM_KEYS), MAX_SPLITS, MAX_PARTS // tokens)
    return max(to_fill, to_bound)


def split_tiles(shape: LaunchShape, tiles: int, max_context: int) -> int:
    """Over how many programs the keys of each tile are split: enough to fill the GPU."""
    return (
        _splits_to_fill(TILE_PROGRAMS * shape.multiprocessors, tiles * shape.kv_heads, max_context)
        if tiles
        else 1
    )


def _splits_to_fill(target: int, programs: int, max_context: int) -> int:
    return max(1, min(-(-target // programs), MAX_SPLITS, -(-max_context // MIN_PROGRAM_KEYS)))
