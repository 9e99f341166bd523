"""The tensors of offloaded sequences: first layers, host layers, and codes of their keys."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.attention.tables import as_tensor
from engine.kv.on_demand import OnDemand
from engine.kv.store import KvShape, KvStore
from engine.offload.layout import OffloadLayout
from engine.offload.selection import CODED_DIMS


class OffloadStore:
    """Keys and values of a pool of pages, of which only the first layers are on the device.

    A row is the token of one head: (page · kv_heads + head) · page_tokens + offset in the page. A
    host layer is (rows, 2 · head_dim), a key followed by its value, so that one copy fetches both.
    `codes`, on the device, is (rows, head_dim / 2) for each host layer: what scores of keys are
    predicted from. Without `layout.coded` its rows are empty.
    """

    def __init__(self, layout: OffloadLayout, pages: int) -> None:
        self.layout = layout
        self.pages = pages
        shape = layout.shape
        self.resident = KvStore(
            KvShape(layout.resident_layers, shape.kv_heads, shape.head_dim),
            pages,
            layout.page_tokens,
            layout.dtype,
            layout.device,
        )
        rows = pages * shape.kv_heads * layout.page_tokens
        size = (layout.host_layers, rows, 2 * shape.head_dim)
        self._on_demand: OnDemand | None = None
        if layout.device.type == "cpu":
            self._on_demand = OnDemand(size, layout.dtype)
            self._host = self._on_demand.tensor
        else:
            self._host = torch.zeros(size, dtype=layout.dtype, pin_memory=True)
        coded = shape.head_dim // CODED_DIMS if layout.coded else 0
        self.codes = torch.zeros(
            (layout.host_layers, rows, coded), dtype=torch.uint8, device=layout.device
        )

    def rows(self, pages: Sequence[int], start: int, stop: int) -> Tensor:
        """The rows of tokens `start` … `stop - 1` of a page table: (kv_heads, tokens), in host
        memory.
        """
        layout, heads = self.layout, self.layout.shape.kv_heads
        tokens = np.arange(start, stop)
        page = np.asarray(pages, dtype=np.int64)[tokens // layout.page_tokens]
        rows = (page * heads + np.arange(heads)[:, None]) * layout.page_tokens
        return torch.from_numpy(rows + tokens % layout.page_tokens)

    def host_layer(self, layer: int) -> Tensor:
        """A layer of the model in host memory: (rows, 2 · head_dim)."""
        return self._host[layer - self.layout.resident_layers]

    def codes_of(self, layer: int) -> Tensor:
        """The codes of the keys of a layer: (rows, head_dim / 2)."""
        return self.codes[layer - self.layout.resident_layers]

    def write_codes(self, layer: int, rows: Tensor, codes: Tensor) -> None:
        """Store codes, (kv_heads, tokens, bytes), at rows (kv_heads, tokens)."""
        kept = self.codes_of(layer)
        kept.index_copy_(0, rows.reshape(-1).to(kept.device), codes.flatten(0, 1))

    def write(self, layer: int, rows: Tensor, key: Tensor, value: Tensor) -> None:
        """Store keys and values, (tokens, kv_heads, head_dim), at rows (kv_heads, tokens)."""
        both = torch.cat((key, value), -1).transpose(0, 1).flatten(0, 1)
        self.host_layer(layer).index_copy_(0, rows.reshape(-1), both.to("cpu"))

    def values_of(self, tokens: int) -> int:
        """The number of values in a layer of the pages that hold these tokens."""
        layout = self.layout
        row = layout.shape.kv_heads * 2 * layout.shape.head_dim
        return -(-tokens // layout.page_tokens) * layout.page_tokens * row

    def as_pages(self, values: Tensor, tokens: int) -> Tensor:
        """The first tokens in `values_of(tokens)` values: (kv_heads, tokens, 2 · head_dim)."""
        shape = self.layout.shape
        return values.view(shape.kv_heads, -1, 2 * shape.head_dim)[:, :tokens]

    def fetch_pages(self, layer: int, pages: Sequence[int], tokens: int, out: Tensor) -> Tensor:
        """Copy a sequence's first tokens of a layer into `out`, as `as_pages` has them."""
        layout, heads = self.layout, self.layout.shape.kv_heads
        used = np.asarray(pages[: -(-tokens // layout.page_tokens)], dtype=np.int64)
        blocks = (used * heads + np.arange(heads)[:, None]).reshape(-1)
        whole = self.host_layer(layer).view(-1, layout.page_tokens * 2 * layout.shape.head_dim)
        rows = out.view(-1, whole.shape[1])
        torch.index_select(whole, 0, as_tensor(blocks, torch.device("cpu")), out=rows)
        return self.as_pages(out, tokens)

    def fetch_rows(self, layer: int, rows: Tensor) -> Tensor:
        """Copy rows of a layer: (rows,) gives (rows, 2 · head_dim)."""
        return self.host_layer(layer).index_select(0, rows)

    def scrub(self, pages: Sequence[int]) -> None:
        """Zero these pages, so that a NaN or infinity does not reach the next owner."""
        self.resident.scrub(pages)
        rows = self.rows(pages, 0, len(pages) * self.layout.page_tokens).reshape(-1)
        self._host.index_fill_(1, rows, 0)
        self.codes.index_fill_(1, rows.to(self.codes.device), 0)

    def clear(self) -> None:
        """Zero all pages."""
        self.resident.clear()
        if self._on_demand is not None:
            self._on_demand.clear()
        else:
            self._host.zero_()
        self.codes.zero_()
