"""Attention of single tokens by our own C kernel, for CPUs.

Torch has no operation that reads pages in place: it needs five (see `decode`), each of which passes
over memory again.
"""

from ctypes import c_float, c_int64, c_void_p
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.attention.compiled import FORMAT_CODES, load
from engine.attention.shared_pages import SharingGate, find_shared_pages
from engine.attention.tables import Int64Array, PageTables
from engine.kv.store import KvStore

SOURCE: Final = Path(__file__).with_name("decode.c")
HEADER: Final = SOURCE.with_name("lanes.h")
# Sums and products as they are written, so that a token's result is the same in any step.
EXACT: Final = ("-fno-associative-math", "-fno-reciprocal-math", "-ffp-contract=off")
# With less, looking for shared pages and a pass over them are not faster than no pass over them
# (`make bench F=attention`): the more query heads read a key, the less more rows add to that.
MIN_SHARED_TOKENS: Final = 384  # times the query heads of a key head
MIN_SHARING_ROWS: Final = 2
MIN_SHARING_KEYS: Final = 16_384


def default_gate(group: int) -> SharingGate:
    """The gate for a model with `group` query heads for a key head."""
    return SharingGate(MIN_SHARED_TOKENS * group, MIN_SHARING_ROWS, MIN_SHARING_KEYS)


class NativePlan(NamedTuple):
    """What each single token sees: keys `lowest` … `newest`; its pages start at `offsets`.

    Where some share pages, `order` and `leading` are those of `SharedPages`, and `states` is the
    memory for the sums between the two passes.
    """

    pages: Int64Array
    offsets: Int64Array
    lowest: Int64Array
    newest: Int64Array
    order: Int64Array | None = None
    leading: Int64Array | None = None
    states: npt.NDArray[np.uint8] | None = None


class NativeDecode:
    """The kernel for one model's heads. KernelUnavailable if it cannot be compiled."""

    def __init__(self, store: KvStore, heads: int, gate: SharingGate | None = None) -> None:
        self._heads = heads
        kv_heads = store.shape.kv_heads
        self._page_tokens = store.page_tokens
        self._gate = gate or default_gate(heads // kv_heads)
        library = load(
            SOURCE,
            {
                "DIM": store.shape.head_dim,
                "KV_HEADS": kv_heads,
                "GROUP": heads // kv_heads,
                "PAGE": store.page_tokens,
                "FORMAT": FORMAT_CODES[store.content.dtype],
            },
            headers=[HEADER],
            flags=EXACT,
        )
        library.state_bytes.restype = c_int64
        self._state_bytes = library.state_bytes()
        self._attend = library.attend
        self._attend.restype = None
        pointers = [c_void_p] * 9
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
        plan = NativePlan(tables.pages, tables.offsets, lowest, newest)
        shared = find_shared_pages(tables, lowest, self._page_tokens, self._gate)
        if shared is None:
            return plan
        states = np.empty(rows * self._state_bytes, dtype=np.uint8)
        return plan._replace(order=shared.order, leading=shared.leading, states=states)

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
            *(None if column is None else column.ctypes.data for column in plan),
            tokens,
            scale,
            out.data_ptr(),
        )
        return out
