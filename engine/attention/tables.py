"""The page tables of a step's chunks as flat arrays."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.attention.interface import Context

Integers = npt.NDArray[np.int64]


class Tables(NamedTuple):
    """Chunks by their numbers; `pages` has one chunk's pages behind the other's."""

    starts: Integers  # (chunks,)
    lengths: Integers  # (chunks,)
    hidden: Integers  # (chunks,)
    counts: Integers  # (chunks,) pages that hold the chunk's context
    pages: Integers  # (sum of counts,)

    @property
    def offsets(self) -> Integers:
        """Where each chunk's pages begin."""
        return np.cumsum(self.counts) - self.counts


def tabulate(contexts: Sequence[Context], page_tokens: int) -> Tables:
    """The tables of a step's chunks, without pages that hold nothing yet."""
    starts, lengths, hidden = (
        np.array(column, dtype=np.int64)
        for column in zip(*((c.start, c.length, c.hidden) for c in contexts), strict=True)
    )
    counts = (starts + lengths + page_tokens - 1) // page_tokens
    tables = [c.pages[:count] for c, count in zip(contexts, counts.tolist(), strict=True)]
    pages = np.fromiter(chain.from_iterable(tables), dtype=np.int64, count=int(counts.sum()))
    return Tables(starts, lengths, hidden, counts, pages)


def spread(starts: Integers, lengths: Integers) -> Integers:
    """start, …, start + length - 1 of each pair, one behind the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) + np.repeat(starts - ends + lengths, lengths)


def put(values: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """An array as a tensor on a device."""
    return torch.from_numpy(values).to(device, non_blocking=True)
