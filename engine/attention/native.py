"""Attention of single tokens by our own C kernel, for CPUs.

Torch has no operation that reads pages in place: it needs five (see `decode`), each of which passes
over memory again.
"""

from ctypes import c_float, c_int64, c_void_p
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.attention.compiled import FORMAT_CODES, load
from engine.attention.tables import Int64Array, PageTables
from engine.kv.store import KvStore

SOURCE: Final = Path(__file__).with_name("decode.c")


class NativePlan(NamedTuple):
    """What each single token sees: keys `lowest` … `newest`; its pages start at `offsets`."""

    pages: Int64Array
    offsets: Int64Array
    lowest: Int64Array
    newest: Int64Array


class NativeDecode:
    """The kernel for one model's heads. KernelUnavailable if it cannot be compiled."""

    def __init__(self, store: KvStore, heads: int) -> None:
        self._heads = heads
        kv_heads = store.shape.kv_heads
        library = load(
            SOURCE,
            {
                "DIM": store.shape.head_dim,
                "KV_HEADS": kv_heads,
                "GROUP": heads // kv_heads,
                "PAGE": store.page_tokens,
                "FORMAT": FORMAT_CODES[store.content.dtype],
            },
        )
        self._attend = library.attend
        self._attend.restype = None
        pointers = [c_void_p] * 6
        self._attend.argtypes = [
            c_void_p, c_int64, *pointers, c_int64, c_float, c_void_p
        ]  # fmt: skip

    def plan(self, tables: PageTables, rows: int, heads: int, window: int | None) -> NativePlan:
        """Plan the first `rows` chunks, all single tokens."""
        assert heads == self._heads
        newest = tables.starts[:rows]
        lowest = np.minimum(tables.padding[:rows], newest)
        if window is not None:
            lowest = np.maximum(lowest, newest - window + 1)
        return NativePlan(tables.pages, tables.offsets, lowest, newest)

    def attend(
        self, plan: NativePlan, query: Tensor, keys: Tensor, values: Tensor, scale: float
    ) -> Tensor:
        """Attend (tokens, heads, dim) over (pages, kv_heads, page_tokens, dim); query shape."""
        tokens, heads, dim = query.shape
        if query.stride()[1:] != (dim, 1):
            query = query.contiguous()
        out = torch.empty((tokens, heads, dim), dtype=query.dtype)
        self._attend(
            query.data_ptr(),
            query.stride(0),
            keys.data_ptr(),
            values.data_ptr(),
            *(column.ctypes.data for column in plan),
            tokens,
            scale,
            out.data_ptr(),
        )
        return out
