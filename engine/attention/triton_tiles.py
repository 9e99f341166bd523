"""How the GPU's attention is cut into programs: tile sizes, and over how many keys are split."""

from typing import Final, NamedTuple

import torch

NARROWEST: Final = 16  # rows and columns that tensor cores take at least
WIDE: Final = 128  # elements of a head, beyond which a tile must be smaller
SINGLES: Final = 4  # programs that a multiprocessor takes at once; with fewer, keys are split
TILES: Final = 2
SPLITS: Final = 64  # at most: what is split is also put together again
LONGEST: Final = (
    4096  # keys that one program attends at most, so that none keeps the others waiting
)
SHORTEST: Final = 64  # keys worth a program
PARTS: Final = 4096  # splits of all tokens together where not the GPU is to fill: they cost memory


class Cut(NamedTuple):
    """How a step becomes programs: `most` tokens of a chunk in one, each for one of `kv_heads`."""

    most: int
    kv_heads: int
    processors: int  # the GPU's multiprocessors


class Tile(NamedTuple):
    """What one program holds: `rows` queries, `block` keys at a time."""

    rows: int
    block: int
    warps: int
    stages: int = 3  # page numbers one block ahead of the keys they lead to, those one ahead of use


def padded(count: int) -> int:
    """The power of two that a kernel's axis of so many elements has."""
    return max(NARROWEST, 1 << (count - 1).bit_length())


def single_tile(group: int, dim: int, dtype: torch.dtype) -> Tile:
    """For chunks of one token: little to compute, so small that many programs share a processor."""
    rows = padded(group)
    if dtype == torch.float32:
        return Tile(rows, 16, warps=4)
    return Tile(rows, 32 if padded(dim) > WIDE else 64, warps=4)


def chunk_tile(group: int, dim: int, dtype: torch.dtype) -> Tile:
    """For longer chunks: as many queries for each key read as registers hold."""
    if dtype == torch.float32:
        rows, block = 32, 16
    elif padded(dim) > WIDE:
        rows, block = 64, 32
    else:
        rows, block = 128, 64
    return Tile(max(rows, padded(group)), block, warps=8)


def split_singles(cut: Cut, tokens: int, longest: int) -> int:
    """Over how many programs the keys of each single token are split, the longest context given.

    Programs without keys left end at once, so that a bound on the context may stand for it.
    """
    if not tokens:
        return 1
    filling = _filling(SINGLES * cut.processors, tokens * cut.kv_heads, longest)
    needed = min(-(-longest // LONGEST), SPLITS, PARTS // tokens)
    return max(filling, needed)


def split_tiles(cut: Cut, tiles: int, longest: int) -> int:
    """Over how many programs the keys of each tile are split: enough to fill the GPU."""
    return _filling(TILES * cut.processors, tiles * cut.kv_heads, longest) if tiles else 1


def _filling(wanted: int, programs: int, longest: int) -> int:
    return max(1, min(-(-wanted // programs), SPLITS, -(-longest // SHORTEST)))
