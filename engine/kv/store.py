"""The tensors behind the pages."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class KvShape(NamedTuple):
    """What one token's keys (or values) look like in one layer, and how many layers there are."""

    layers: int
    kv_heads: int
    head_dim: int


class KvStore:
    """Keys and values of every page, layer by layer, allocated once."""

    def __init__(
        self, shape: KvShape, pages: int, page_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        # (pages, kv_heads, page_tokens, head_dim) for each layer
        size = (pages, shape.kv_heads, page_tokens, shape.head_dim)
        self.keys = [torch.zeros(size, dtype=dtype, device=device) for _ in range(shape.layers)]
        self.values = [torch.zeros(size, dtype=dtype, device=device) for _ in range(shape.layers)]

    def write(self, layer: int, pages: Tensor, offsets: Tensor, key: Tensor, value: Tensor) -> None:
        """Keep (tokens, kv_heads, head_dim) keys and values, each at its page and offset."""
        self.keys[layer][pages, :, offsets] = key
        self.values[layer][pages, :, offsets] = value

    def scrub(self, pages: Sequence[int]) -> None:
        """Zero these pages: a value that is no number must not reach the page's next owner."""
        for tensor in (*self.keys, *self.values):
            tensor[list(pages)] = 0
