"""How the GPU's attention is divided into programs: tile sizes and key splits."""

from typing import Final, NamedTuple

import torch

MIN_AXIS_SIZE: Final = 16  # smallest side of a product on tensor cores
MAX_FULL_TILE_DIM: Final = 128  # wider heads need smaller tiles
SINGLE_PROGRAMS: Final = 4  # that fill a multiprocessor; with fewer, keys are split
TILE_PROGRAMS: Final = 2  # the same for tiles
MAX_SPLITS: Final = 64  # per token: splits must be combined again
MAX_PROGRAM_KEYS: Final = 4096  # per program, so that none delays the others
MIN_PROGRAM_KEYS: Final = 64  # below that a program does not pay
MAX_PARTS: Final = 4096  # splits of all tokens, which cost memory, once the GPU is full


class LaunchShape(NamedTuple):
    """A program takes `tile_tokens` tokens of a chunk for one of `kv_heads` key heads."""

    tile_tokens: int
    kv_heads: int
    multiprocessors: int  # the GPU's multiprocessors
    shared_rows: int = 1  # single tokens whose shared pages one program reads


class Tile(NamedTuple):
    """The size of a program: `rows` queries, `block` keys at a time."""

    rows: int
    block: int
    warps: int
    stages: int = 3  # page ids load one block ahead of their keys, keys one ahead of use


def padded_size(count: int) -> int:
    """The size of a kernel axis for `count` elements: a power of two."""
    return max(MIN_AXIS_SIZE, 1 << (count - 1).bit_length())


def single_tile(group: int, dim: int, dtype: torch.dtype) -> Tile:
    """The tile of a single token: small, so that many programs share a multiprocessor."""
    rows = padded_size(group)
    if dtype == torch.float32:
        return Tile(rows, 16, warps=4)
    return Tile(rows, 32 if padded_size(dim) > MAX_FULL_TILE_DIM else 64, warps=4)


def chunk_tile(group: int, dim: int, dtype: torch.dtype) -> Tile:
    """The tile of longer chunks: as many queries per key read as the registers hold."""
    if dtype == torch.float32:
        rows, block = 32, 16
    elif padded_size(dim) > MAX_FULL_TILE_DIM:
        rows, block = 64, 32
    else:
        rows, block = 128, 64
    return Tile(max(rows, padded_size(group)), block, warps=8)


def shared_tile(group: int, dim: int, dtype: torch.dtype) -> Tile:
    """The tile of single tokens that share pages: as a chunk's, for half as many queries."""
    tile = chunk_tile(group, dim, dtype)
    return tile._replace(rows=max(tile.rows // 2, padded_size(group)), warps=4)


def split_singles(shape: LaunchShape, tokens: int, max_context: int) -> int:
    """The number of programs over which the keys of each single token are split.

    Programs without keys end at once, so `max_context` may be an upper bound.
    """
    if not tokens:
        return 1
    to_fill = _splits_to_fill(
        SINGLE_PROGRAMS * shape.multiprocessors, tokens * shape.kv_heads, max_context
    )
    to_bound = min(-(-max_context // MAX_PROGRAM_KEYS), MAX_SPLITS, MAX_PARTS // tokens)
    return max(to_fill, to_bound)


def split_tiles(shape: LaunchShape, tiles: int, max_context: int) -> int:
    """The number of programs over which the keys of each tile are split, to fill the GPU."""
    if not tiles:
        return 1
    programs = tiles * shape.kv_heads
    return _splits_to_fill(TILE_PROGRAMS * shape.multiprocessors, programs, max_context)


def _splits_to_fill(target: int, programs: int, max_context: int) -> int:
    return max(1, min(-(-target // programs), MAX_SPLITS, -(-max_context // MIN_PROGRAM_KEYS)))
