"""The tensors that hold the pages."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from engine.kv.on_demand import OnDemand


class KvShape(NamedTuple):
    """The number of layers, and the shape of a token's keys (or values) in one layer."""

    layers: int
    kv_heads: int
    head_dim: int

    def page_bytes(self, page_tokens: int, dtype: torch.dtype) -> int:
        """Bytes of a page over all layers, keys and values."""
        return 2 * self.layers * self.kv_heads * self.head_dim * page_tokens * dtype.itemsize


class KvStore:
    """Keys and values of every page, allocated once; `keys[layer]` and `values[layer]` are views.

    Each view is (pages, kv_heads, page_tokens, head_dim).
    """

    def __init__(
        self, shape: KvShape, pages: int, page_tokens: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.shape = shape
        self.pages = pages
        self.page_tokens = page_tokens
        size = (2, shape.layers, pages, shape.kv_heads, page_tokens, shape.head_dim)
        self._on_demand = OnDemand(size, dtype) if device.type == "cpu" else None
        if self._on_demand is not None:
            self.content = self._on_demand.tensor
        else:
            self.content = torch.zeros(size, dtype=dtype, device=device)
        self.keys = list(self.content[0])
        self.values = list(self.content[1])

    @property
    def page_bytes(self) -> int:
        """Bytes of one page over all layers, keys and values."""
        return self.shape.page_bytes(self.page_tokens, self.content.dtype)

    def write(self, layer: int, rows: Tensor, key: Tensor, value: Tensor) -> None:
        """Store keys and values, (tokens, kv_heads, head_dim), at these rows.

        `rows`, (tokens · kv_heads,): (page * kv_heads + head) * page_tokens + offset in the page.
        """
        dim = self.shape.head_dim
        self.keys[layer].view(-1, dim).index_copy_(0, rows, key.reshape(-1, dim))
        self.values[layer].view(-1, dim).index_copy_(0, rows, value.reshape(-1, dim))

    def scrub(self, pages: Sequence[int]) -> None:
        """Zero these pages, so that a NaN or infinity does not reach the next owner."""
        self.content.index_fill_(2, self._index(pages), 0)

    def clear(self) -> None:
        """Zero all pages; on a CPU by returning their memory."""
        if self._on_demand is not None:
            self._on_demand.clear()
        else:
            self.content.zero_()

    def copy_out(self, pages: Sequence[int]) -> Tensor:
        """Copy these pages to host memory.

        One tensor, (2, layers, pages, kv_heads, page_tokens, head_dim), keys before values. From a
        GPU it is copied into pinned memory, complete when the stream gets there.
        """
        return self.content.index_select(2, self._index(pages)).to("cpu", non_blocking=True)

    def copy_in(self, pages: Sequence[int], content: Tensor) -> None:
        """Write the last pages of a copy into these pages."""
        content = content.to(self.content.device, non_blocking=True)[:, :, -len(pages) :]
        self.content.index_copy_(2, self._index(pages), content)

    def _index(self, pages: Sequence[int]) -> Tensor:
        return torch.tensor(list(pages), dtype=torch.long, device=self.content.device)
