"""Memory for what layers fetch, used again and again."""

import torch
from torch import Tensor


class LayerBuffers:
    """Two buffers that layers use in turns: while one is attended, the next one is fetched.

    Fresh memory from the system would cost more than the copy into it: a page fault for each 4 KB.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._buffers = [torch.empty(0, dtype=dtype, device=device) for _ in range(2)]

    def of(self, layer: int, size: int) -> Tensor:
        """A layer's buffer, of this many values at least: (values,)."""
        found = self._buffers[layer % 2]
        if len(found) < size:
            found = self._buffers[layer % 2] = found.new_empty(size + size // 4)
        return found
