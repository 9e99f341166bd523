"""The page tables of a step's chunks as flat arrays."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.attention.interface import Context

Int64Array = npt.NDArray[np.int64]


class PageTables(NamedTuple):
    """One row per chunk; `pages` concatenates the chunks' page tables."""

    starts: Int64Array  # (chunks,)
    lengths: Int64Array  # (chunks,)
    padding: Int64Array  # (chunks,)
    counts: Int64Array  # (chunks,) number of pages of the chunk's context
    pages: Int64Array  # (sum of counts,)

    @property
    def offsets(self) -> Int64Array:
        """Start of each chunk's pages, (chunks,)."""
        return np.cumsum(self.counts) - self.counts


def tabulate(contexts: Sequence[Context], page_tokens: int) -> PageTables:
    """The tables of a step's chunks, without pages that are still empty."""
    starts, lengths, padding = (
        np.array(column, dtype=np.int64)
        for column in zip(*((c.start, c.length, c.padding) for c in contexts), strict=True)
    )
    counts = (starts + lengths + page_tokens - 1) // page_tokens
    tables = [c.pages[:count] for c, count in zip(contexts, counts.tolist(), strict=True)]
    pages = np.fromiter(chain.from_iterable(tables), dtype=np.int64, count=int(counts.sum()))
    return PageTables(starts, lengths, padding, counts, pages)


def ranges(starts: Int64Array, lengths: Int64Array) -> Int64Array:
    """start, …, start + length - 1 for each pair, concatenated."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) + np.repeat(starts - ends + lengths, lengths)


def as_tensor(values: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """An array as a tensor on a device."""
    return torch.from_numpy(values).to(device, non_blocking=True)
