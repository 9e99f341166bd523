"""Memory of a CPU that takes space only once it is used."""

import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor


class OnDemand:
    """A tensor of zeros whose pages the kernel provides when they are first used.

    Torch would fill all of them at once.
    """

    def __init__(self, size: Sequence[int], dtype: torch.dtype) -> None:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._memory = mmap.mmap(-1, math.prod(size) * dtype.itemsize, flags=flags)
        self.tensor: Tensor = torch.frombuffer(self._memory, dtype=dtype).view(*size)

    def clear(self) -> None:
        """Return the memory, which is zero when used again."""
        self._memory.madvise(mmap.MADV_DONTNEED)
